"""The agent in its three kinds, each in one file, and which of them a guest can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.deadline import Deadline
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.parts import compiled_agent
from harness.pyz import packed

Variant = Literal["c", "python", "shell"]
ORDER: tuple[Variant, ...] = ("c", "python", "shell")
"""Best first: what stamps its accesses most finely."""

ELSEWHERE = frozenset({"ports", "dev-port", "cpuid"})
"""Refusals for which another kind of agent may have another way."""

_HERE = Path(__file__).parent
_SHELL_PARTS = ("protocol", "machine", "ports", "others", "main")
_PACKAGE = "harness/guests/agent_python"
_MAIN = b"import sys\n\nfrom harness.guests.agent_python.__main__ import main\n\nsys.exit(main())\n"


@dataclass(frozen=True)
class Agents:
    """What can be brought into a guest; `version` changes with any of them."""

    programs: dict[Variant, bytes]
    version: str = ""

    def choose(self, wanted: Variant | Literal["auto"], tools: Sequence[str]) -> list[Variant]:
        """The kinds to try in turn in a guest that has these tools (of login.TOOLS, and `exec-x86_64`)."""
        if wanted != "auto":
            return [wanted]
        needs = {"c": "exec-x86_64", "python": "python3", "shell": "dd"}
        return [variant for variant in ORDER if variant in self.programs and needs[variant] in tools]


def shell_agent() -> bytes:
    """The agent as a script for any POSIX shell."""
    return b"\n".join((_HERE / "agent_shell" / f"{part}.sh").read_bytes() for part in _SHELL_PARTS)


def python_agent() -> bytes:
    """The agent as an archive that Python runs as it is; nothing in it is compressed, since a Python may lack zlib."""
    sources = {path.name: path.read_bytes() for path in sorted((_HERE / "agent_python").glob("*.py"))}
    files = {"__main__.py": _MAIN, "harness/__init__.py": b"", "harness/guests/__init__.py": b""}
    files |= {f"{_PACKAGE}/{name}": data for name, data in sources.items()}
    return packed(files)


def prepare_agents(cache_dir: Path | None, deadline: Deadline) -> Agents:
    """All three. Raises as `compiled_agent`."""
    compiled, version = compiled_agent(Cache(cache_dir or default_cache_dir()), deadline)
    return Agents({"c": compiled, "python": python_agent(), "shell": shell_agent()}, version)
