"""Allure results made from a kept run directory, for runs whose pytest did not live to write them all."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.allure_details import EPIC, labels, parameters, title, write_result_files
from reports.evidence import bundle
from reports.lines import verdict_line
from reports.rundir import RunDir, RunError, open_run
from reports.verdicts import ACRN_DM_DEFECT, DEFECT, FAULT, INCONCLUSIVE, PASS, Verdict

_STATUSES = {PASS: "passed", FAULT: "failed", DEFECT: "passed", ACRN_DM_DEFECT: "passed", INCONCLUSIVE: "broken"}

MOST_SINGLE = 2000
"""Of more updates those that passed are gathered: a result each, with its evidence, is 40 KB of the report."""


def write_results(run_dir: Path | str | RunDir, results_dir: Path) -> int:
    """Writes one result and one attachment per update, one result per error; says how many results.

    Where there are more than `MOST_SINGLE` updates, those that passed have one result for all that are alike in name,
    mode and vRTC, with a line for each; of the others so many have an attachment.
    Writing again replaces what was written before. Raises as `open_run` does, and OSError.
    """
    run = open_run(run_dir)
    verdicts = everything = run.verdicts()
    write_result_files(results_dir, run)
    gathered: dict[tuple[str, ...], list[Verdict]] = defaultdict(list)
    if len(everything) > MOST_SINGLE:
        verdicts = [verdict for verdict in everything if verdict.verdict != PASS]
        for verdict in everything:
            if verdict.verdict == PASS:
                group = (_story(verdict), verdict.mode, run.vrtc(verdict.vm) or "?", verdict.role)
                gathered[group].append(verdict)
    for alike_in, alike in gathered.items():
        _write_gathered(run, results_dir, alike_in, alike)
    namesakes = Counter(verdict.item for verdict in everything)
    known = {verdict.item.partition("~")[0] for verdict in everything if verdict.verdict != INCONCLUSIVE}
    for number, verdict in enumerate(verdicts):
        identity = _identity(run, verdict.vm, verdict.item)
        result = _result(run, verdict, identity)
        if verdict.verdict == INCONCLUSIVE and verdict.item.partition("~")[0] in known:
            result["status"] = "skipped"  # another attempt at it was judged
        story = verdict.item if namesakes[verdict.item] == 1 else f"{verdict.vm}/{verdict.item}"
        result["historyId"] = hashlib.md5(story.encode(), usedforsecurity=False).hexdigest()
        if number < MOST_SINGLE:
            name, body, mime = bundle(run, verdict)
            source = f"{identity}-attachment.html"
            (results_dir / source).write_bytes(body)
            result["attachments"] = [{"name": name, "source": source, "type": mime}]
        _write(results_dir, identity, result)
    for number, error in enumerate(run.errors):
        identity = _identity(run, error.vm, f"error {number}")
        _write(results_dir, identity, _error(error, identity))
    return len(gathered) + len(verdicts) + len(run.errors)


def _story(verdict: Verdict) -> str:
    """An item's name without its number."""
    return verdict.item.partition("~")[0].rsplit("-", 1)[0]


def _write_gathered(run: RunDir, results_dir: Path, group: tuple[str, ...], alike: Sequence[Verdict]) -> None:
    """One result for updates that all passed, with a line for each."""
    story, mode, vrtc, role = group
    identity = _identity(run, vrtc, f"gathered {story} {mode} {role}")
    source = f"{identity}-attachment.txt"
    lines = "".join(verdict_line(verdict) + "\n" for verdict in sorted(alike, key=lambda v: v.item))
    (results_dir / source).write_text(lines, "utf-8")
    told = {"epic": EPIC, "feature": f"RTC {mode or 'other'}", "story": story, "verdict": PASS, "vrtc": vrtc}
    result = {
        "uuid": identity,
        "name": f"{len(alike):,} passed: {story}, {mode}, {vrtc}" + ("" if role == "update" else f", {role}"),
        "fullName": f"scenarios#{story}/{mode}/{vrtc}/{role}",
        "historyId": hashlib.md5("/".join(group).encode(), usedforsecurity=False).hexdigest(),
        "status": "passed",
        "stage": "finished",
        "description": "Too many for a result each. Evidence of one: `python -m reports RUN evidence ITEM`.",
        "labels": [{"name": name, "value": value} for name, value in told.items()],
        "attachments": [{"name": f"{len(alike):,} updates", "source": source, "type": "text/plain"}],
    }
    _write(results_dir, identity, result)


def _result(run: RunDir, v: Verdict, identity: str) -> dict[str, Any]:
    message = "" if v.verdict == PASS else f"{v.verdict}: {v.defect or ''} {v.diagnosis}".replace(":  ", ": ")
    result: dict[str, Any] = {
        "uuid": identity,
        "name": title(v),
        "fullName": f"scenarios#{v.item}",
        "status": _STATUSES.get(v.verdict, "unknown"),
        "stage": "finished",
        "labels": [{"name": name, "value": value} for name, value in labels(v, run.vrtc(v.vm)).items()],
        "parameters": [
            {"name": n, "value": w, "excluded": True} for n, w in parameters(v, run.vrtc(v.vm)).items()
        ],
    }
    if message:
        result["statusDetails"] = {"message": message}
    start, stop = v.origin_ns, max((s.t_ns for s in v.seen if s.t_ns is not None), default=v.decided_ns)
    for key, moment in (("start", start), ("stop", stop)):
        wall = run.wall_ns(moment, v.vm) if moment is not None else None
        if wall is not None:
            result[key] = wall // 1_000_000
    return result


def _error(error: RunError, identity: str) -> dict[str, Any]:
    first = (error.text.splitlines() or ["error"])[0]
    return {
        "uuid": identity,
        "name": f"{error.kind} error{' of ' + error.vm if error.vm else ''}: {first}",
        "fullName": f"run#{error.kind}",
        "status": "broken",
        "stage": "finished",
        "statusDetails": {"message": f"{error.kind} error: {first}", "trace": error.text},
        "labels": [
            {"name": "feature", "value": f"{error.kind} errors"},
            {"name": "severity", "value": "blocker"},
        ],
    }


def _identity(run: RunDir, vm: str, item: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.info.get('started')}/{run.seed}/{vm}/{item}"))


def _write(results_dir: Path, identity: str, result: dict[str, Any]) -> None:
    (results_dir / f"{identity}-result.json").write_text(json.dumps(result), "utf-8")
