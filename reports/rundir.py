"""Reads a run directory: run.json and, per guest, verdicts, agent reports and the records around an update.

Nothing is thrown away quietly: what cannot be read is listed in `RunDir.problems`, file and line, and
every report shows that list. An unfinished run (killed, or still going) reads as far as it got.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ConfigurationError, InfrastructureError
from reports.slices import arrival_of, lines_between, stamp_of, t_ns_of
from reports.verdicts import INCONCLUSIVE, Verdict, parse_verdict, plain

AGENTS_RECORD = "witness.jsonl"
GUEST_FILES = (
    "verdicts.jsonl",
    "trace.log",
    AGENTS_RECORD,
    "events.jsonl",
    "agent.jsonl",
    "console.log",
    "exit.json",
)

_AROUND_NS = 50_000_000
_EVENTS_AFTER_NS = 2_500_000_000

_ALSO_FOR_A_REPLAY = {
    "bench": "--bench",
    "service_socket": "--service-socket",
    "event_socket": "--event-socket",
    "known_defects": "--known-defects",
}
"""Options that decide what a plan meets, by their names in run.json."""


@dataclass(frozen=True)
class RunError:
    """An error that the harness recorded in run.json: its class, the guest (or "") and the text."""

    kind: str
    vm: str
    text: str


@dataclass
class RunDir:
    """A run directory as it lies on disk. Made by `open_run`; reads its files when asked."""

    path: Path
    info: Mapping[str, Any]
    guests: tuple[str, ...]
    problems: list[str] = field(default_factory=list)

    @property
    def seed(self) -> str:
        """The run's seed as text, `?` where run.json does not say."""
        return plain(self.info.get("seed", "?"))

    @property
    def bench(self) -> str:
        """The bench's name, or its file."""
        bench = self.info.get("bench")
        if isinstance(bench, Mapping):
            return plain(bench.get("name") or bench.get("file") or "?")
        return plain(bench or "?")

    @property
    def attached(self) -> bool:
        """Whether the guest was another one's, and only watched: nobody planned what it did."""
        return isinstance(self.info.get("attached"), Mapping)

    @property
    def former_sessions(self) -> tuple[Mapping[str, Any], ...]:
        """What run.json says of the sessions before the present one, of a run that was cut and resumed."""
        told = self.info.get("former_sessions")
        return tuple(each for each in told if isinstance(each, Mapping)) if isinstance(told, list) else ()

    def session(self, vm: str) -> int:
        """In which session of the run the guest was, from 1 on."""
        number = self._told_of(vm).get("session", 1)
        return number if isinstance(number, int) else 1

    @property
    def finished(self) -> bool:
        """Whether the harness came to its orderly end."""
        return bool(self.info.get("ended"))

    @property
    def window_ns(self) -> int:
        """The settle window in ns; the field's constant of 1 s where run.json does not say."""
        window = self.info.get("window_ns")
        return window if isinstance(window, int) and window > 0 else 1_000_000_000

    @property
    def errors(self) -> tuple[RunError, ...]:
        """What went wrong beside the product, as run.json tells it."""
        return _errors(self.info)

    @property
    def former_errors(self) -> tuple[RunError, ...]:
        """The same of earlier sessions: what was lost by them has been done again since."""
        return tuple(error for session in self.former_sessions for error in _errors(session))

    def guest(self, vm: str) -> Path:
        """The folder of one guest. A name with a path in it can only come from damage: it stays inside."""
        return self.path / Path(vm).name

    def vrtc(self, vm: str) -> str | None:
        """Whose virtual RTC the guest has: `dm`, `hv`, or None where run.json does not say."""
        vrtc = self._told_of(vm).get("vrtc")
        return vrtc if vrtc in ("dm", "hv") else None

    def service(self, vm: str) -> str | None:
        """Which event service was judged: `project`, `hsm`, `behind-acrn-dm`, `acrn-dm`, or None where nothing says."""
        service = self._told_of(vm).get("service")
        return plain(service) if isinstance(service, str) else None

    def host(self, vm: str) -> str | None:
        """The host that the guest ran on, where it was not this machine."""
        bench = self.info.get("bench")
        of_bench = bench.get("host") if isinstance(bench, Mapping) else None
        host = self._told_of(vm).get("host") or of_bench
        return plain(host) if isinstance(host, str) else None

    def vm_name(self, vm: str) -> str:
        """The name by which events call the guest, which on a bench may be another than its folder's."""
        name = self._told_of(vm).get("vm_name")
        return plain(name) if isinstance(name, str) else vm

    def is_rehearsal(self, vm: str) -> bool:
        """Whether what stood for acrn-dm was this project's own device model, which has none of its defects."""
        return self._told_of(vm).get("rehearsal") is True

    def has_agents_record(self, vm: str) -> bool:
        """Whether the guest's agent is the witness, as on a bench, and not QEMU's trace."""
        folder = self.guest(vm)
        return not (folder / "trace.log").exists() and (folder / AGENTS_RECORD).exists()

    def _told_of(self, vm: str) -> Mapping[str, Any]:
        guests = self.info.get("guests")
        guest = guests.get(vm) if isinstance(guests, Mapping) else None
        return guest if isinstance(guest, Mapping) else {}

    def wall_ns(self, monotonic_ns: int, vm: str | None = None) -> int | None:
        """A monotonic moment as wall-clock ns since 1970, by the mapping taken when the (guest's) session began."""
        sessions = [*self.former_sessions, self.info]
        number = len(sessions) if vm is None else self.session(vm)
        clock = sessions[number - 1].get("clock") if 0 < number <= len(sessions) else None
        if not isinstance(clock, Mapping):
            return None
        mono, wall = clock.get("monotonic_ns"), clock.get("wall_ns")
        if isinstance(mono, int) and isinstance(wall, int):
            return wall + monotonic_ns - mono
        return None

    def verdicts(self) -> list[Verdict]:
        """The latest revision of each item's verdict, all guests, in the order they were decided.

        Of a plan that was done again after the run had been cut, only what its last session found; and every fault.
        """
        latest: dict[tuple[str, str], Verdict] = {}
        for vm in self.guests:
            for raw in self._objects(self.guest(vm) / "verdicts.jsonl"):
                verdict = parse_verdict({"vm": vm, **raw})
                key = (verdict.vm, verdict.item)
                if key not in latest or verdict.revision >= latest[key].revision:
                    latest[key] = verdict
        found = sorted(latest.values(), key=lambda verdict: (self.session(verdict.vm), verdict.decided_ns or 0))
        return self._without_superseded(found) if self.former_sessions else found

    def _without_superseded(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Without what the cut fell into, and without what was done again since; but for faults."""
        planned = [(v.item.partition("~")[0], v) for v in verdicts if v.role == "update" or v.mode == "ntp"]
        last = {plan: self.session(v.vm) for plan, v in planned}  # in the order of sessions
        gone = {id(v) for plan, v in planned if self.session(v.vm) < last[plan] and not v.is_fault}
        gone |= {id(v) for v in verdicts if v.verdict == INCONCLUSIVE and self._was_cut(v.vm)}
        return [v for v in verdicts if id(v) not in gone]

    def find(self, item: str) -> Verdict:
        """The verdict on `item` (or `vm/item` where several guests have one of that name).

        Raises ConfigurationError if there is none, naming what resembles it.
        """
        everything = self.verdicts()
        found = [v for v in everything if item in (v.item, f"{v.vm}/{v.item}")]
        if len(found) == 1:
            return found[0]
        if found:
            hint = "say one of: " + ", ".join(f"{v.vm}/{v.item}" for v in found)
            raise ConfigurationError(f"'{plain(item)}' is ambiguous in {self.path}", hint=hint)
        near = [v.item for v in everything if item.lower() in v.item.lower()][:5]
        near = near or [v.item for v in everything][:5]
        hint = f"items of this run: {', '.join(near)}" if near else "this run has no verdicts at all"
        raise ConfigurationError(f"no item '{plain(item)}' in {self.path}", hint=hint)

    def agent_report(self, verdict: Verdict) -> Mapping[str, Any] | None:
        """The agent's line on the item of `verdict`, the last one if it was repeated."""
        name = json.dumps(verdict.item)
        report = None
        for raw in self._objects(self.guest(verdict.vm) / "agent.jsonl", holding=name):
            if raw.get("item") == verdict.item:
                report = raw
        return report

    def trace_lines(self, verdict: Verdict) -> list[str]:
        """The witness's lines of the update, exactly as kept, from its first write to its last."""
        span = self._span(verdict)
        if span is None:
            return []
        if self.has_agents_record(verdict.vm):
            return self._between(AGENTS_RECORD, stamp_of, verdict, span[0], span[1])
        return self._between("trace.log", arrival_of, verdict, span[0], span[1])

    def event_lines(self, verdict: Verdict) -> list[str]:
        """The listener's journal from the update's first write until well after its last event was due."""
        span = self._span(verdict)
        if span is None:
            return []
        ends = [span[1] + _EVENTS_AFTER_NS, *(s.t_ns for s in verdict.seen if s.t_ns)]
        ends += [e.due_ns for e in verdict.expected if e.due_ns]
        return self._between("events.jsonl", t_ns_of, verdict, span[0], max(ends))

    def plan_text(self, verdict: Verdict) -> str:
        """The item's plan as YAML: a fault's replay file, else its part of plans.yaml; "" without either."""
        replay = self.replay_file(verdict)
        if replay is not None:
            return replay.read_text("utf-8", "replace")
        try:
            text = (self.guest(verdict.vm) / "plans.yaml").read_text("utf-8", "replace")
        except OSError:
            return ""
        return _entry_naming(text, verdict.item)

    def replay_file(self, verdict: Verdict) -> Path | None:
        """The file that replays the item, where the harness wrote one."""
        path = self.guest(verdict.vm) / "replay" / f"{Path(verdict.item).name}.yaml"
        return path if path.is_file() else None

    def replay_command(self, verdict: Verdict) -> str:
        """The one command that replays the item, to be typed in the repository's root.

        Without a replay file the whole guest's plans are named: longer, but still the same writes. What nobody
        planned nobody can replay. Where the run was on another bench than the usual one, or was heard elsewhere,
        so is this.
        """
        if self.attached:
            return "none: nobody planned it (what the guest wrote is in trace.log)"
        path = self.replay_file(verdict) or self.guest(verdict.vm) / "plans.yaml"
        words = ["./lab", "qemu", "--rtc-plan", str(shown_path(path))]
        options = self.info.get("options")
        for name, option in _ALSO_FOR_A_REPLAY.items():
            value = options.get(name) if isinstance(options, Mapping) else None
            if isinstance(value, str):
                words += [option, plain(value)]
        return shlex.join(words)

    def _span(self, verdict: Verdict) -> tuple[int, int] | None:
        """From where to where the item's writes were traced; with the margin of a window's ambiguity."""
        stamps = [write.stamp_ns for write in verdict.writes]
        report = self.agent_report(verdict)
        if report is not None:
            stamps += [at for at in (report.get("start_ns"), report.get("end_ns")) if isinstance(at, int)]
        stamps += [at for e in verdict.expected for at in (e.first_ns, e.last_ns, e.last_arrival_ns) if at]
        stamps = stamps or [s.t_ns for s in verdict.seen if s.t_ns is not None]
        return (min(stamps) - _AROUND_NS, max(stamps) + _AROUND_NS) if stamps else None

    def _between(self, name: str, key_of: Any, verdict: Verdict, start: int, end: int) -> list[str]:
        path = self.guest(verdict.vm) / name
        try:
            return lines_between(path, key_of, start, end)
        except OSError as error:
            self._note(f"{path}: {error.strerror or error}")
            return []

    def _objects(self, path: Path, holding: str = "") -> Iterator[Mapping[str, Any]]:
        """The JSON objects of a .jsonl file. Unreadable lines are noted, but for one still being written."""
        try:
            with path.open("r", encoding="utf-8", errors="replace", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    if holding not in line or not line.strip():
                        continue
                    try:
                        value = json.loads(line)
                    except (ValueError, RecursionError):
                        value = None
                    if isinstance(value, dict):
                        yield value
                    elif line.endswith("\n") or (self.finished and not self._was_cut(path.parent.name)):
                        self._note(f"{path}:{number}: not a JSON object: {plain(line[:60].rstrip())}")
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(f"{path}: {error.strerror or error}")

    def _was_cut(self, vm: str) -> bool:
        """Whether the guest's session was one that ended before the run did."""
        return self.session(vm) <= len(self.former_sessions)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _errors(session: Mapping[str, Any]) -> tuple[RunError, ...]:
    recorded = session.get("errors")
    return tuple(
        RunError(plain(e.get("class") or "error"), plain(e.get("vm") or ""), str(e.get("text") or ""))
        for e in (recorded if isinstance(recorded, list) else [])
        if isinstance(e, Mapping)
    )


def open_run(path: Path | str | RunDir) -> RunDir:
    """The run directory at `path` (an open one comes back as it is).

    Raises ConfigurationError if there is no run directory there, InfrastructureError if it cannot be read.
    """
    if isinstance(path, RunDir):
        return path
    path = Path(path)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ConfigurationError(f"run directory {path} {what}", hint=_runs_nearby(path))
    problems: list[str] = []
    try:
        info = _read_run_json(path / "run.json", problems)
        guests = [entry.name for entry in path.iterdir() if _is_guest(entry)]
    except OSError as error:
        hint = "see the owner and the mode of the directory"
        raise InfrastructureError(f"cannot read the run directory {path}: {error}", hint=hint) from error
    if info is None and not guests:
        what = "is not a run directory: no run.json, no guest's records"
        raise ConfigurationError(f"{path} {what}", hint=_runs_nearby(path))
    info = info or {}
    named = info.get("guests")
    guests += [name for name in (named if isinstance(named, Mapping) else {}) if name not in guests]
    return RunDir(path, info, tuple(sorted(guests, key=_by_number)), problems)


def shown_path(path: Path) -> Path:
    """`path` relative to the working directory when it lies inside, else absolute."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the user's links
    try:
        return absolute.relative_to(Path.cwd())
    except ValueError:
        return absolute


def _read_run_json(path: Path, problems: list[str]) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8", "replace"))
    except FileNotFoundError:
        problems.append(f"{path}: missing: seed, versions and errors of the run are not known")
        return None
    except (ValueError, RecursionError) as error:
        problems.append(f"{path}: damaged ({error}): seed, versions and errors of the run are not known")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path}: not a JSON object")
        return {}
    return value


def _is_guest(entry: Path) -> bool:
    return entry.is_dir() and any((entry / name).exists() for name in GUEST_FILES)


def _by_number(name: str) -> tuple[str, int, str]:
    """vm2 before vm10."""
    digits = name[len(name.rstrip("0123456789")) :]
    return (name[: len(name) - len(digits)], int(digits or 0), name)


def _entry_naming(text: str, item: str) -> str:
    """The entry of a YAML list whose lines name `item`, as text: a report needs no model of the plan."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.lstrip().startswith("- ")]
    if not starts:
        return text if item in text else ""
    indent = min(len(lines[i]) - len(lines[i].lstrip()) for i in starts)
    starts = [i for i in starts if len(lines[i]) - len(lines[i].lstrip()) == indent]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        entry = lines[start:end]
        if any(line.rstrip().rstrip("'\"").endswith((f" {item}", f"'{item}", f'"{item}')) for line in entry):
            return "\n".join(entry) + "\n"
    return ""


def _runs_nearby(path: Path) -> str:
    """A hint that names kept runs, the newest first."""
    for folder in (path.parent, Path("reports/runs")):
        try:
            found = sorted(folder.glob("*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        except OSError:
            continue
        if found:
            return "kept runs: " + ", ".join(str(shown_path(p.parent)) for p in found[:3])
    return "a run directory is made by ./lab qemu, in reports/runs/ unless --run-dir says otherwise"
