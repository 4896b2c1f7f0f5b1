"""The documents name only what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs_support import DOCUMENTS, ROOT, prose

LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (heading and heading not in headings(path)):
            broken.append(target)

    assert broken == []


def headings(document: Path) -> set[str]:
    """What a link can name behind #, as GitHub makes it of the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_run_of_lab_that_a_document_shows_is_one() -> None:
    usage = subprocess.run([ROOT / "lab", "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    runs = set(re.findall(r"^  (\w+)  +\S", usage, re.MULTILINE))
    assert {"tests", "pyz"} <= runs

    shown = {run for document in DOCUMENTS for run in re.findall(r"\./lab (\w+)", document.read_text())}

    assert shown - runs == set()


def test_the_readme_shows_how_to_make_the_one_file_and_where_its_manual_is() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "./lab pyz" in readme
    assert "(docs/vm_event.md)" in readme
