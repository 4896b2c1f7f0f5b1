"""Allure results made from a kept run directory, for runs whose pytest did not live to write them all."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from reports.allure_details import labels, parameters, title, write_result_files
from reports.evidence import bundle
from reports.rundir import RunDir, RunError, open_run
from reports.verdicts import DEFECT, FAULT, INCONCLUSIVE, PASS, Verdict

_STATUSES = {PASS: "passed", FAULT: "failed", DEFECT: "passed", INCONCLUSIVE: "broken"}


def write_results(run_dir: Path | str | RunDir, results_dir: Path) -> int:
    """Writes one result and one attachment per update, one result per error; says how many results.

    Writing again replaces what was written before. Raises as `open_run` does, and OSError.
    """
    run = open_run(run_dir)
    verdicts = run.verdicts()
    write_result_files(results_dir, run)
    namesakes = Counter(verdict.item for verdict in verdicts)
    for verdict in verdicts:
        name, body, mime = bundle(run, verdict)
        identity = _identity(run, verdict.vm, verdict.item)
        source = f"{identity}-attachment.html"
        (results_dir / source).write_bytes(body)
        result = _result(run, verdict, identity)
        story = verdict.item if namesakes[verdict.item] == 1 else f"{verdict.vm}/{verdict.item}"
        result["historyId"] = hashlib.md5(story.encode(), usedforsecurity=False).hexdigest()
        result["attachments"] = [{"name": name, "source": source, "type": mime}]
        _write(results_dir, identity, result)
    for number, error in enumerate(run.errors):
        identity = _identity(run, error.vm, f"error {number}")
        _write(results_dir, identity, _error(error, identity))
    return len(verdicts) + len(run.errors)


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
        wall = run.wall_ns(moment) if moment is not None else None
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
