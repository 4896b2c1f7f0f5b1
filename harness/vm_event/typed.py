"""`typing` for type checkers alone: its import takes half a MB of every running service, which needs none of it."""

from __future__ import annotations

__all__ = ["Any", "NamedTuple", "Protocol"]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, NamedTuple, Protocol
else:
    from collections import namedtuple

    Any = Protocol = object

    class _Record(type):
        """Makes of a class with annotated fields, and nothing else, what `typing.NamedTuple` makes of it."""

        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            made = namedtuple(name, namespace["__annotations__"], module=namespace["__module__"])
            made.__doc__ = namespace.get("__doc__")
            return made

    class NamedTuple(metaclass=_Record):
        """The base of small private records."""
