"""What a JSON Schema allows at a place of a file: which keys, which values, in words for a message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.yamltree import JsonValue, KeyPath, Step


class Schema:
    """A JSON Schema as pydantic makes it, asked by place."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def keys(self, path: KeyPath, data: JsonValue) -> list[str]:
        """The keys that the mapping at `path` may have."""
        return sorted({key for part in self._at(path, data) for key in part.get("properties", {})})

    def wanted(self, path: KeyPath, data: JsonValue) -> str:
        """What the value at `path` should be: its description, else its allowed values, else ''."""
        parts = list(self._raw(path, data))
        for part in parts:
            if "description" in part:
                return str(part["description"])
        allowed = [text for part in parts for resolved in self._members(part) for text in _values(resolved)]
        return ("one of " if len(allowed) > 1 else "") + ", ".join(dict.fromkeys(allowed))

    def allowed(self, path: KeyPath) -> list[str]:
        """The fixed values that the value at `path` may have."""
        return [text for part in self._at(path, None) for text in _values(part)]

    def tags(self, path: KeyPath, data: JsonValue) -> list[str]:
        """The names by which the members of the discriminated union at `path` are told apart."""
        return [tag for part in self._raw(path, data) for tag in self._mapping(part)]

    def _mapping(self, part: dict[str, Any]) -> list[str]:
        part = self._resolve(part)
        within = [tag for member in part.get("anyOf", ()) for tag in self._mapping(member)]
        return [*part.get("discriminator", {}).get("mapping", {}), *within]

    def _resolve(self, part: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in part:
            part = self._schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
        return part

    def _members(self, part: dict[str, Any], data: JsonValue = None) -> Iterator[dict[str, Any]]:
        """`part` itself, or a union's members; of a discriminated one what fits `data`, if any."""
        part = self._resolve(part)
        union = part.get("anyOf") or part.get("oneOf")
        if union is None:
            yield part
            return
        discriminator = part.get("discriminator", {})
        tag = data.get(discriminator.get("propertyName", "")) if isinstance(data, dict) else None
        reference = discriminator.get("mapping", {}).get(tag) if isinstance(tag, str) else None
        for member in [{"$ref": reference}] if reference else union:
            yield from self._members(member, data)

    def _at(self, path: KeyPath, data: JsonValue) -> Iterator[dict[str, Any]]:
        for part in self._raw(path, data):
            yield from self._members(part, follow(data, path))

    def _raw(self, path: KeyPath, data: JsonValue) -> Iterator[dict[str, Any]]:
        """The schema parts at `path` as written there: with their own description, references as they are."""
        parts = [self._schema]
        for step in path:
            members = [member for part in parts for member in self._members(part, data)]
            parts = [child for member in members for child in _children(member, step)]
            data = follow(data, (step,))
        yield from parts


def _children(part: dict[str, Any], step: Step) -> Iterator[dict[str, Any]]:
    if isinstance(step, str):
        if step in part.get("properties", {}):
            yield part["properties"][step]
        elif isinstance(part.get("additionalProperties"), dict):
            yield part["additionalProperties"]
    else:
        prefix = part.get("prefixItems", [])
        if step < len(prefix):
            yield prefix[step]
        elif isinstance(part.get("items"), dict):
            yield part["items"]


def follow(data: JsonValue, path: KeyPath) -> JsonValue:
    """The value at `path`; None where there is none."""
    for step in path:
        if isinstance(data, dict) and isinstance(step, str):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def _values(part: dict[str, Any]) -> list[str]:
    if "const" in part:
        return [_literal(part["const"])]
    if "enum" in part:
        return [_literal(value) for value in part["enum"]]
    return ["null"] if part.get("type") == "null" else []


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
