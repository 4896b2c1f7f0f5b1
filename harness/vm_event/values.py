"""The base of small immutable values.

Written out where `dataclasses` would do: its import takes 2 MB of every running service.
"""

from __future__ import annotations


class Value:
    """Equal by type and fields, hashable, printable, matchable, and never changed after `__init__`.

    A subclass names its fields, in the order of its `__init__`, in `__slots__` and `__match_args__`, and sets them
    with `_set`.
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, *values: object) -> None:
        """Give the fields their values, in order; for `__init__` alone."""
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__ or not isinstance(other, Value):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in zip(self.__slots__, self._values(), strict=True))
        return f"{self.__class__.__name__}({fields})"

    def __reduce__(self) -> tuple[type[Value], tuple[object, ...]]:
        return self.__class__, self._values()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self.__class__.__name__} does not change: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self.__class__.__name__} does not change: {name!r} cannot be deleted")
