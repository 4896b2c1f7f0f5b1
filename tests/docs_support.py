"""Reads the project's documents, so that tests can hold them against what they are about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MANUAL = ROOT / "docs" / "vm_event.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"^# (\S+\.py)\b")


class Block(NamedTuple):
    """A block of code in a document. A program begins with a comment that has its name."""

    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The program's file name."""
        found = _NAME.match(self.text)
        return found[1] if found else None


def blocks(document: Path, language: str) -> list[Block]:
    """The fenced blocks in that language."""
    return [Block(*found) for found in _FENCE.findall(document.read_text()) if found[0] == language]


def prose(document: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", document.read_text())


def section(document: Path, title: str) -> str:
    """The prose under a heading, up to the next heading of its level or a higher one."""
    text = prose(document)
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found is not None, f"{document.name} has no section {title!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without headings, as lists of cells."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        rule = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("| ") and not line.startswith("| ---") and not rule.startswith("| ---"):
            # A bar inside a code span is written \| in a table.
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            found.append([cell.strip().replace("\\|", "|") for cell in cells])
    return found


def code(text: str) -> list[str]:
    """The code spans of a cell, or of prose."""
    return re.findall(r"`([^`]+)`", text)
