"""The HTML report: one file made from Allure's results, that opens from disk without a server."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from reports.allure_details import category_rules
from reports.node import Unavailable, allure_cli, run_quietly

REPORT_NAME = "RTC-change events"

_ANALYTICS = re.compile(
    r'\s*<script async src="https://www\.googletagmanager\.com/[^"]*"></script>\s*<script>(?:(?!</script>).)*'
    r"gtag\((?:(?!</script>).)*</script>",
    re.DOTALL,
)
_ROOM = '<style>iframe[title="HTML attachment"]{min-height:75vh}</style>'


@dataclass(frozen=True)
class Html:
    """The report's path, or None and the reason, whose last line says how to get one."""

    path: Path | None
    reason: str


def generate(
    results_dir: Path,
    out_dir: Path,
    deadline: Deadline,
    *,
    cache: Path | None = None,
    history: Path | None = None,
) -> Html:
    """Makes `out_dir`/index.html from Allure's results, replacing an older one. Lack of a tool is no error.

    `cache`: where Allure is installed once (default: the harness's cache). `history`: a .jsonl file
    of former runs, which Allure reads and continues.
    """
    if not any(results_dir.glob("*-result.json")):
        return Html(None, f"no Allure results in {results_dir} (pytest writes them with --alluredir)")
    try:
        node, cli = allure_cli(deadline, cache)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".html-", dir=out_dir.parent) as scratch:
            return _generate(Path(scratch), [node.program, str(cli)], results_dir, out_dir, deadline, history)
    except Unavailable as reason:
        return Html(None, str(reason))
    except OSError as error:
        return Html(None, f"the report cannot be written: {error}")


def _generate(
    scratch: Path,
    allure: list[str],
    results_dir: Path,
    out_dir: Path,
    deadline: Deadline,
    history: Path | None,
) -> Html:
    config = scratch / "allurerc.json"
    made = scratch / "report"
    config.write_text(json.dumps(_configuration(made, history)), "utf-8")
    command = [
        *allure,
        "generate",
        "--config",
        str(config),
        "--cwd",
        str(scratch),
        str(results_dir.absolute()),
    ]
    log = scratch / "allure.log"
    problem = run_quietly(command, log, deadline, cwd=scratch)
    index = made / "index.html"
    if not problem and not index.is_file():
        problem = "\n".join(["allure made no report", *log.read_text("utf-8", "replace").splitlines()[-5:]])
    if problem:
        return Html(None, problem)
    page = index.read_text("utf-8")
    index.write_text(with_room_for_evidence(without_analytics(page)), "utf-8")
    out_dir.mkdir(exist_ok=True)
    index.replace(out_dir / "index.html")
    return Html(out_dir / "index.html", "")


def without_analytics(page: str) -> str:
    """The page without the script by which Allure's template reports every viewer to a third party."""
    return _ANALYTICS.sub("", page, count=1)


def with_room_for_evidence(page: str) -> str:
    """The page with a tall frame for HTML attachments: from disk, Allure cannot measure them (150 px)."""
    return page.replace("</head>", f"{_ROOM}</head>", 1)


def _configuration(output: Path, history: Path | None) -> dict[str, Any]:
    awesome = {
        "singleFile": True,
        "reportName": REPORT_NAME,
        "reportLanguage": "en",
        "groupBy": ["feature", "story"],
        "defaultSortBy": "status,asc",
    }
    configuration: dict[str, Any] = {
        "name": REPORT_NAME,
        "output": str(output),
        "categories": {"rules": category_rules()},
        "plugins": {"awesome": {"options": awesome}},
    }
    if history is not None:
        configuration["historyPath"] = str(history.absolute())
    return configuration
