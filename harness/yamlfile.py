"""YAML files to typed objects: all that is wrong with a file at once, each with file, line and key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import ConfigurationError
from harness.yamlschema import Schema, follow
from harness.yamltree import Finding, JsonValue, KeyPath, Tree, parse_yaml

T = TypeVar("T")
Checks = Callable[[JsonValue], Iterable[tuple[KeyPath, str]]]

_SECRET = re.compile(r"passw|passphrase|secret", re.IGNORECASE)
"""Keys that are about secrets."""

MAX_BYTES = 16 * 1024 * 1024

_MAPPING_WANTED = {"model_type", "model_attributes_type", "dict_type", "dataclass_type"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file.

    line: from 1; path: the key's place, `guests[0].memory`, '' for the file as a whole.
    """

    file: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: "
        return f"{where}{self.path}: {self.text}" if self.path else f"{where}{self.text}"


class FileProblems(ConfigurationError):
    """A file of the user's is wrong; `problems` has every problem found, in the order of the lines."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} problems in {problems[0].file}")
        super().__init__("\n  ".join(lines), hint=hint)


def load_yaml_model(
    path: Path, model: type[T], *, context: Mapping[str, Any] | None = None, checks: Checks | None = None
) -> T:
    """The file's content as a `model`: a pydantic model, or whatever else pydantic validates (`list[Plan]`).

    Validation is strict: `"96"` is no number. Validators find the file's folder as `directory` in their
    context, together with `context`. `checks` says what parts of the data say against each other: it is asked
    whatever else is wrong.
    Raises FileProblems with all problems of the file at once.
    """
    tree = parse_yaml(_read(path))
    adapter = TypeAdapter(model)
    findings = list(tree.findings)
    value: T | None = None
    # Data that was read in part would be called incomplete; what is wrong with the YAML comes first.
    if not any(not finding.path for finding in findings):
        try:
            # By way of JSON: only there does strict validation take a text for a path or a time.
            value = adapter.validate_json(
                json.dumps(tree.data), strict=True, context={"directory": path.parent, **(context or {})}
            )
        except ValidationError as error:
            refused = {finding.path for finding in findings}
            schema = Schema(adapter.json_schema())
            found = _findings(error.errors(include_url=False), tree, schema)
            findings += [finding for finding in found if finding.path not in refused]
        told = {finding.path for finding in findings}
        against = checks(tree.data) if checks else ()
        findings += [Finding(tree.line(where), where, text) for where, text in against if where not in told]
    if findings:
        unique = sorted(set(findings), key=lambda finding: (finding.line, str(finding.path), finding.text))
        raise FileProblems([Problem(str(path), f.line, render(f.path), f.text) for f in unique])
    assert value is not None or tree.data is None
    return value  # type: ignore[return-value]


def render(path: KeyPath) -> str:
    """A key path as people write it: `guests[0].memory`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problem = "no such file" + _similar_file(path)
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    else:
        if len(content) <= MAX_BYTES:
            return content
        problem = f"is larger than {MAX_BYTES // 1024 // 1024} MiB"
    raise FileProblems([Problem(str(path), 1, "", problem)], hint="name a file that can be read")


def _similar_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name, names, 1, cutoff=0.75)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _findings(errors: Iterable[ErrorDetails], tree: Tree, schema: Schema) -> list[Finding]:
    errors = list(errors)
    # pydantic counts a list's good items only; where bad ones are told, the list is not too short as well.
    inside = {error["loc"][:i] for error in errors for i in range(len(error["loc"]))}
    told = [error for error in errors if error["type"] != "too_short" or error["loc"] not in inside]
    found = [_finding(error, tree, schema) for error in told]
    version = ("version",)
    given = isinstance(tree.data, dict) and "version" in tree.data
    if given and any(finding.path == version for finding in found):
        # A file of another version has every right to look different.
        known = " or ".join(schema.allowed(version)) or "another one"
        shown = show(follow(tree.data, version))
        return [Finding(tree.line(version), version, f"is {shown}; this harness reads version {known}")]
    return found


def _finding(error: ErrorDetails, tree: Tree, schema: Schema) -> Finding:
    path = _place(tree.data, error["loc"], schema)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Finding(tree.line(path), path, _unknown_key(str(path[-1]), schema.keys(path[:-1], tree.data)))
    if kind == "missing":
        path = (*path, str(error["loc"][-1])) if not path or path[-1] != error["loc"][-1] else path
        wanted = schema.wanted(path, tree.data)
        return Finding(tree.line(path), path, f"is missing; should be {wanted}" if wanted else "is missing")
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        return _tag_finding(path, str(context.get("discriminator", "")).strip("'"), tree, schema)
    if kind in {"value_error", "assertion_error"}:
        return Finding(tree.line(path), path, str(context.get("error", error["msg"])))
    value = follow(tree.data, path)
    if path and _SECRET.search(str(path[-1])):
        # Perhaps it is the secret itself: it is not repeated.
        return Finding(tree.line(path), path, f"should be {schema.wanted(path, tree.data)}, and not the secret itself")
    if kind in {"too_short", "too_long"} and isinstance(value, list):
        limit = (
            f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        )
        return Finding(tree.line(path), path, f"has {len(value)} entries; should have {limit}")
    wanted = "a mapping (key: value)" if kind in _MAPPING_WANTED else schema.wanted(path, tree.data)
    should = f"should be {wanted}" if wanted else error["msg"].replace("Input should", "should")
    return Finding(tree.line(path), path, f"is {show(value)}; {should}{_quotes(kind, value)}")


def _tag_finding(path: KeyPath, key: str, tree: Tree, schema: Schema) -> Finding:
    tag = (*path, key)
    allowed = "one of " + ", ".join(schema.tags(path, tree.data))
    mapping = follow(tree.data, path)
    if isinstance(mapping, dict) and key in mapping:
        return Finding(tree.line(tag), tag, f"is {show(mapping[key])}; should be {allowed}")
    return Finding(tree.line(path), tag, f"is missing; should be {allowed}")


def _place(data: JsonValue, loc: Sequence[str | int], schema: Schema) -> KeyPath:
    """Where in the data pydantic's `loc` is: without the names of union members in between."""
    path: KeyPath = ()
    here, member = data, False
    for step in loc:
        # A union's member may be called like a key that it has, or that somebody thinks it has.
        if not member and isinstance(here, dict) and step in schema.tags(path, data):
            member = True
        elif (isinstance(here, dict) and isinstance(step, str) and step in here) or (
            isinstance(here, list) and isinstance(step, int) and 0 <= step < len(here)
        ):
            path = (*path, step)
            here, member = here[step], False  # type: ignore[index]
    return path


def _unknown_key(key: str, known: Sequence[str]) -> str:
    if _SECRET.search(key):
        places = [f"'{name}'" for name in known if name.endswith(("_env", "_file")) and _SECRET.search(name)]
        return "no secret may stand in this file" + (f"; {', '.join(places)} say where one is" if places else "")
    near = difflib.get_close_matches(key.lower(), known, 1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean '{near[0]}'?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key"


def show(value: JsonValue) -> str:
    """A value as a message names it: short, and so that `96` and `"96"` can be told apart."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:37] + '...'!r}"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else str(value)


def _quotes(kind: str, value: JsonValue) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return ' (put it in quotes, "...", where text is meant)'
    return ""
