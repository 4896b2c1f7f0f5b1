"""What a pytest plugin tells Allure about one update, and the files beside Allure's results.

Statuses follow the exception (allure-pytest): an AssertionError, so a ProductFault, is `failed`, a skip
`skipped`, anything else, so the other error families, `broken`. Messages begin with the class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.evidence import bundle
from reports.rundir import RunDir, open_run
from reports.verdicts import (
    ACRN_DM_DEFECT,
    DEFECT,
    FAULT,
    INCONCLUSIVE,
    PASS,
    Verdict,
    order_text,
    parse_verdict,
    plain,
)

SEVERITIES = {FAULT: "critical", INCONCLUSIVE: "minor", DEFECT: "minor", ACRN_DM_DEFECT: "minor", PASS: "normal"}

EPIC = "RTC-change events"

_DEFECTS = "Known vRTC defects"
_ACRN_DM_DEFECTS = "Known acrn-dm defects"


def categories() -> list[dict[str, Any]]:
    """The report's categories; the first that matches takes the test (Allure's `categories.json`).

    Allure 2 matches `messageRegex` against the whole message, Allure 3 searches; `[\\s\\S]*` suits both, and
    both of their dialects (JavaScript has no `(?s)`).
    """
    return [
        _category(_DEFECTS, ["passed", "failed", "broken", "skipped"], DEFECT),
        _category(_ACRN_DM_DEFECTS, ["passed", "failed", "broken", "skipped"], ACRN_DM_DEFECT),
        _category("Product faults", ["failed"], "(ProductFault|product fault)"),
        _category("Inconclusive", ["broken", "skipped", "failed"], "(inconclusive|could not be judged)"),
        _category("Configuration", ["broken", "skipped"], "(ConfigurationError|configuration error)"),
        _category("Infrastructure", ["broken", "skipped"], "(InfrastructureError|infrastructure error)"),
        {"name": "Other failures", "matchedStatuses": ["failed"]},
        {"name": "Errors of the harness itself", "matchedStatuses": ["broken"]},
    ]


def category_rules() -> list[dict[str, Any]]:
    """The same for Allure 3's own configuration: by the label `verdict` too, where there is no message."""
    rules = []
    by_name = {"Product faults": FAULT, "Inconclusive": INCONCLUSIVE}
    by_name |= {_DEFECTS: DEFECT, _ACRN_DM_DEFECTS: ACRN_DM_DEFECT}
    for category in categories():
        matchers: list[dict[str, Any]] = [{"statuses": category["matchedStatuses"]}]
        if "messageRegex" in category:
            matchers[0]["message"] = category["messageRegex"]
        if category["name"] in by_name:
            matchers.append({"labels": {"verdict": f"^{by_name[category['name']]}$"}})
        rule: dict[str, Any] = {"name": category["name"], "matchers": matchers}
        if category["name"] in (_DEFECTS, _ACRN_DM_DEFECTS):
            rule["groupBy"] = [{"label": "defect"}]
        rules.append(rule)
    return rules


def title(verdict: Mapping[str, Any] | Verdict) -> str:
    """`random_order_running-007: running, order 32 09 08 07 04 02 00, +86400 s`."""
    v = parse_verdict(verdict)
    parts = [v.mode, f"order {order_text(v.order)}" if v.order else ""]
    parts += [f"{e.delta_time:+d} s" for e in v.expected if e.delta_time is not None]
    told = ", ".join(part for part in parts if part)
    return f"{v.item}: {told}" if told else v.item


def labels(verdict: Mapping[str, Any] | Verdict, vrtc: str | None = None) -> dict[str, str]:
    """Allure labels: they group and filter the report. `verdict`, `vrtc` and `defect` are our own."""
    v = parse_verdict(verdict)
    found = {
        "epic": EPIC,
        "feature": f"RTC {v.mode}" if v.mode else "other",
        "story": v.item.rsplit("-", 1)[0],
        "severity": SEVERITIES.get(v.verdict, "normal"),
        "verdict": v.verdict,
        "guest": v.vm,
    }
    if vrtc is not None:
        found["vrtc"] = vrtc
    if v.defect:
        found["defect"] = v.defect
        found["tag"] = v.defect
    return found


def parameters(verdict: Mapping[str, Any] | Verdict, vrtc: str | None = None) -> dict[str, str]:
    """What the update was and how it went, for the report's parameter list."""
    v = parse_verdict(verdict)
    found = {"guest": v.vm, "vRTC": vrtc or "", "mode": v.mode, "order": order_text(v.order)}
    if v.latency_ms is not None:
        found["ms after due"] = f"{v.latency_ms:.2f}"
        if v.uncertainty_ms is not None:
            found["ms after due"] += f" +- {v.uncertainty_ms:.1f}"
    found["events seen"] = str(len(v.seen))
    return {name: value for name, value in found.items() if value}


def describe(verdict: Mapping[str, Any] | Verdict, vrtc: str | None = None) -> None:
    """Sets title, labels, severity and parameters of the running test. Does nothing without `--alluredir`.

    vrtc: the guest's, where it is known.
    To be called while the test itself runs: what is said in a fixture is lost (allure-pytest sets the title
    again after the setup), and what is attached there is filed under the fixture.
    Parameters are excluded from the test's identity: histories and retries go by the item's name.
    """
    import allure

    dynamic: Any = allure.dynamic
    dynamic.title(title(verdict))
    for name, value in labels(verdict, vrtc).items():
        dynamic.label(name, value)
    for name, value in parameters(verdict, vrtc).items():
        dynamic.parameter(name, value, excluded=True)


def attach(run_dir: Path | str | RunDir, verdict: Mapping[str, Any] | Verdict) -> None:
    """Attaches the bundle, one file, to the running test: see `describe`. Raises as `open_run` does."""
    import allure

    name, body, _ = bundle(run_dir, verdict)
    allure.attach(body, name=name, attachment_type=allure.attachment_type.HTML)


def write_result_files(results_dir: Path, run_dir: Path | str | RunDir) -> None:
    """Writes categories.json and environment.properties beside Allure's results. Raises OSError."""
    results_dir.mkdir(parents=True, exist_ok=True)
    (results_dir / "categories.json").write_text(json.dumps(categories(), indent=1), "utf-8")
    lines = [f"{_escaped(key)}={_escaped(value)}\n" for key, value in environment(open_run(run_dir)).items()]
    (results_dir / "environment.properties").write_text("".join(lines), "utf-8")


def environment(run: RunDir) -> dict[str, str]:
    """What the run ran on: seed, bench, versions, guests. Not the command line: it may hold a secret."""
    found = {"seed": run.seed, "bench": run.bench, "guests": ", ".join(_guests(run))}
    versions = run.info.get("versions")
    for name, version in (versions if isinstance(versions, Mapping) else {}).items():
        found[plain(name)] = plain(version)
    found["settle.window"] = f"{run.window_ns / 1e9:g} s"
    found["started"] = plain(run.info.get("started", "?"))
    return {key: value for key, value in found.items() if value}


def _guests(run: RunDir) -> list[str]:
    told = run.info.get("guests")
    told = told if isinstance(told, Mapping) else {}
    shown = []
    for name in run.guests:
        about = told.get(name)
        about = about if isinstance(about, Mapping) else {}
        extras = " ".join(plain(about[key]) for key in ("machine", "vrtc", "service", "host") if about.get(key))
        shown.append(f"{name} ({extras})" if extras else name)
    return shown


def _category(name: str, statuses: list[str], pattern: str) -> dict[str, Any]:
    return {"name": name, "matchedStatuses": statuses, "messageRegex": rf"[\s\S]*{pattern}[\s\S]*"}


def _escaped(text: str) -> str:
    """Java properties: a backslash escapes, `=` and `:` end a key."""
    text = text.replace("\\", "\\\\")
    return text.replace("=", "\\=").replace(":", "\\:") if " " not in text else text
