"""The evidence of one update: everything in one escaped document, with its picture."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reports.evidence import bundle
from reports.rundir import open_run
from reports.timeline_svg import svg_timeline
from reports.verdicts import parse_verdict
from tests.synthetic_run import SyntheticRun

ATTACK = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


class Tags(HTMLParser):
    """Which elements a document really has, and whether each is closed."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def run(tmp_path: Path) -> SyntheticRun:
    return SyntheticRun(tmp_path / "run")


def document(run: SyntheticRun, item: str) -> Tags:
    _, body, mime = bundle(run.path, open_run(run.path).find(item))
    assert mime == "text/html"
    return Tags(body.decode())


def test_everything_about_an_update_is_in_one_document(run: SyntheticRun) -> None:
    verdict = run.update("a-000", verdict="product fault", faults=["payload"], diagnosis="1 s too much")
    run.update("a-001", number=1)

    page = document(run, "a-000")

    assert {"table", "svg", "details", "pre"} <= page.names
    assert page.open == []
    for wanted in (
        "product fault",
        "1 s too much",
        "rtc-index",
        '"kind": "object"',
        "replayed: true",
        "seed",
    ):
        assert wanted in page.text
    assert str(verdict["writes"][3][0]) in page.text
    assert f"./lab qemu --rtc-plan {run.path}/vm0/replay/a-000.yaml" in page.text
    assert "a-001" not in page.text


def test_nothing_from_outside_becomes_markup(run: SyntheticRun) -> None:
    verdict = run.update(ATTACK.replace("/", ""), diagnosis=ATTACK, mode=ATTACK, faults=[ATTACK], role=ATTACK)
    verdict |= {"item": "a-000", "defect": ATTACK, "verdict": ATTACK, "revision": 2}
    verdict["seen"][0]["event"][ATTACK] = ATTACK
    verdict["seen"][0]["faults"] = [ATTACK]
    run.append("vm0", "verdicts.jsonl", json.dumps(verdict) + "\n")
    run.append("vm0", "agent.jsonl", json.dumps({"item": "a-000", "error": ATTACK}) + "\n")
    run.append("vm0", "plans.yaml", f"- item: a-000\n  label: {ATTACK}\n")
    first = verdict["writes"][0][0]
    run.append("vm0", "trace.log", f"{first} {first} {ATTACK}\n")
    run.append("vm0", "events.jsonl", json.dumps({"t_ns": first + 10**9, "kind": ATTACK}) + "\n")
    run.info["bench"] = {"name": ATTACK}
    run.info["versions"] = {ATTACK: ATTACK}
    run.save()

    page = document(run, "a-000")

    assert not page.names & {"script", "img"}
    assert page.open == []
    assert page.text.count("alert(1)") >= 9


def test_the_picture_is_well_formed_and_tells_right_from_wrong(run: SyntheticRun) -> None:
    verdict = run.update("a-000")
    good = ElementTree.fromstring(svg_timeline(parse_verdict(verdict)))
    verdict["seen"][0]["faults"] = ["early"]
    bad = ElementTree.fromstring(svg_timeline(parse_verdict(verdict)))

    def circles(picture: ElementTree.Element) -> list[str]:
        return [element.get("fill", "") for element in picture.iter() if element.tag.endswith("circle")]

    assert len(circles(good)) == 7 + 3
    assert "#1a7f4b" in circles(good)
    assert "#c62828" in circles(bad)
    assert "#1a7f4b" not in circles(bad)


def test_moments_of_the_picture_keep_their_order_and_room(run: SyntheticRun) -> None:
    verdict = run.update("a-000")
    picture = ElementTree.fromstring(svg_timeline(parse_verdict(verdict)))

    xs = [float(e.get("cx", "")) for e in picture.iter() if e.tag.endswith("circle")]

    assert xs == sorted(xs)
    assert min(b - a for a, b in pairwise(xs)) >= 39


def test_an_update_of_which_nothing_is_known_still_has_its_document(run: SyntheticRun) -> None:
    run.append("vm0", "verdicts.jsonl", '{"item":"a-000","verdict":"inconclusive","diagnosis":"QEMU died"}\n')

    page = document(run, "a-000")

    assert "QEMU died" in page.text
    assert "svg" not in page.names


def test_a_silent_pass_says_so(run: SyntheticRun) -> None:
    run.update("a-000", expected=[], latency_ms=None)

    assert "No event was expected and none came." in document(run, "a-000").text


def test_a_flood_of_trace_lines_is_cut_with_a_word(run: SyntheticRun) -> None:
    verdict = run.update("a-000")
    stamp = verdict["writes"][-1][0]
    run.append("vm0", "trace.log", f"{stamp + 30_000} {stamp} noise\n" * 1000)

    assert "... and 614 more lines" in document(run, "a-000").text
