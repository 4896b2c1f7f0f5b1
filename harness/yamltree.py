"""YAML text to plain data that knows its lines; what is wrong with the YAML itself becomes a finding."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
Step: TypeAlias = "str | int"
KeyPath = tuple[Step, ...]
"""Where a value stands: keys and list indices, from the top."""

MAX_DEPTH = 50
MAX_VALUES = 500_000
"""More than any bench or plan file has; a few lines of aliases to aliases could stand for billions."""

_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
_BIGGEST_INT = 2**63
# libyaml's scanner where PyYAML was built with it: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong: in which line (from 1), at which value, and what."""

    line: int
    path: KeyPath
    text: str


@dataclass
class Tree:
    """The data of one YAML document, with the line of every key and value."""

    data: JsonValue = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    key_lines: dict[KeyPath, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """The line to show for a value: that of its key, or of the nearest thing around it."""
        while path and path not in self.key_lines and path not in self.lines:
            path = path[:-1]
        return self.key_lines.get(path) or self.lines.get(path, 1)


def parse_yaml(content: bytes) -> Tree:
    """The tree of a YAML document; never raises for its content: see the tree's findings."""
    tree = Tree()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        tree.findings.append(Finding(content[: error.start].count(b"\n") + 1, (), "is not UTF-8 text"))
        return tree
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        tree.findings.append(
            Finding(line, (), f"has the character {bad.group()!r}, which YAML does not allow")
        )
        return tree
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            tree.findings.append(Finding(1, (), "is empty"))
        else:
            tree.data = _Builder(tree).build(node, (), 0)
    except _TooMuch as error:
        tree.findings.append(Finding(error.line, (), str(error)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tree.findings.append(Finding(mark.line + 1 if mark else 1, (), _syntax_error(error)))
    except yaml.YAMLError as error:
        tree.findings.append(Finding(1, (), f"bad YAML: {' '.join(str(error).split())}"))
    return tree


class _TooMuch(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def _check_depth(text: str) -> None:
    # Composing is recursive, in C: depth has to be bounded before.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise _TooMuch(line, _TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_error(error: yaml.MarkedYAMLError) -> str:
    text = error.problem or "cannot be read"
    if "nesting depth" in text:  # a limit of libyaml's own, from 0.2.6 on
        return _TOO_DEEP
    if error.context and error.context_mark:
        text += f" ({error.context} that began in line {error.context_mark.line + 1})"
    if "'\\t'" in text or "tab" in text:
        text += "; indent with spaces, not with tabs"
    elif "single document" in text:
        return "has more than one document; a line '---' may only stand at the top"
    return f"bad YAML: {text}"


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1


class _Builder:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._count = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: KeyPath, depth: int) -> JsonValue:
        line = _line(node)
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooMuch(line, f"has more than {MAX_VALUES} values, aliases counted each time")
        if depth > MAX_DEPTH:
            raise _TooMuch(line, "an alias stands inside of what it stands for")
        self._tree.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return self._refuse(node, path, f"the tag {node.tag.replace(_PREFIX, '!!')} has no meaning here")

    def _refuse(self, node: yaml.Node, path: KeyPath, text: str) -> JsonValue:
        self._tree.findings.append(Finding(_line(node), path, text))
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> JsonValue:
        data: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "has a key that is not plain text")
                continue
            key: str = key_node.value
            here = (*path, key)
            if key_node.tag == _PREFIX + "merge":
                self._refuse(key_node, path, "merging by '<<' is not supported; repeat the keys")
                continue
            # `on` and `off` are words where keys stand: nobody means a truth value there.
            if key_node.tag not in (_PREFIX + "str", _PREFIX + "bool"):
                self._refuse(key_node, here, "the key is not read as text; put it in quotes")
                continue
            if not self._clean(key_node, path):
                continue
            if key in data:
                first = self._tree.key_lines[here]
                self._refuse(key_node, here, f"key given twice; the first is in line {first}")
                continue
            self._tree.key_lines[here] = _line(key_node)
            data[key] = self.build(value_node, here, depth + 1)
        return data

    def _clean(self, node: yaml.ScalarNode, path: KeyPath) -> bool:
        if bad := _UNPRINTABLE.search(node.value):
            self._refuse(node, path, f"has the character {bad.group()!r}, which has no place in a text")
        return not bad

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> JsonValue:
        kind = node.tag.removeprefix(_PREFIX)
        # A time stays the text it is: whoever wants a time reads it, and says what is wrong with it.
        if kind in {"str", "timestamp", "value"}:
            return node.value if self._clean(node, path) else None
        reader = _READERS.get(kind)
        if reader is None:
            return self._refuse(node, path, f"the tag {node.tag.replace(_PREFIX, '!!')} has no meaning here")
        try:
            value = reader(self._scalars, node)
        except (ValueError, OverflowError, KeyError, IndexError, yaml.YAMLError):
            return self._refuse(node, path, f"{node.value[:40]!r} is not a readable {_WORDS[kind]}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._refuse(node, path, f"{node.value!r} is no number to calculate with")
        if isinstance(value, int) and abs(value) >= _BIGGEST_INT:
            return self._refuse(node, path, "the number is too large")
        return value


_Constructor = yaml.constructor.SafeConstructor
_READERS: dict[str, Callable[[Any, yaml.ScalarNode], bool | int | float | None]] = {
    "null": _Constructor.construct_yaml_null,
    "bool": _Constructor.construct_yaml_bool,
    "int": _Constructor.construct_yaml_int,
    "float": _Constructor.construct_yaml_float,
}
_WORDS = {"null": "null", "bool": "truth value", "int": "whole number", "float": "number"}
