"""The manual of bench files against the files' schema: every key, in order, with its default; every example good."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from harness import bench
from harness.bench.command import schema
from harness.bench.values import FIXED
from tests.docs_support import ROOT, blocks, code, rows, section

MANUAL = ROOT / "docs" / "benches.md"
#: Which part of a bench file a section is about.
SECTIONS: dict[str, type[BaseModel]] = {
    "The file": bench.Bench,
    "host: local": bench.LocalHostSpec,
    "host: ssh": bench.SshHostSpec,
    "host: nested": bench.NestedHostSpec,
    "power: manual": bench.ManualPowerSpec,
    "power: commands": bench.CommandPowerSpec,
    "power: labgrid": bench.LabgridPowerSpec,
    "reservation: lock": bench.LockReservationSpec,
    "reservation: labgrid": bench.LabgridReservationSpec,
    "qemu": bench.QemuSpec,
    "service": bench.ServiceSpec,
    "quiet": bench.QuietSpec,
    "rtc": bench.RtcSpec,
    "guests": bench.GuestSpec,
    "device_model: acrn-dm": bench.AcrnDmSpec,
    "device_model: script": bench.ScriptSpec,
    "device_model: running": bench.RunningSpec,
    "console: stdio": bench.StdioConsoleSpec,
    "console: serial": bench.SerialConsoleSpec,
    "console: socket": bench.SocketConsoleSpec,
    "console: pty": bench.PtyConsoleSpec,
    "login": bench.LoginSpec,
    "agent": bench.AgentSpec,
    "agent: ssh": bench.GuestSshSpec,
}


def table(title: str) -> list[list[str]]:
    """The first table of a section: its keys."""
    text = re.split(r"^### ", section(MANUAL, title), flags=re.MULTILINE)[0]
    return [cells for cells in rows(text) if len(cells) == 3 and not cells[2].startswith(("local", "real", "all"))]


@pytest.mark.parametrize("title", list(SECTIONS))
def test_every_key_is_described_in_its_order(title: str) -> None:
    assert [code(cells[0])[0] for cells in table(title)] == list(SECTIONS[title].model_fields)


def default_of(field: FieldInfo) -> Any:
    """As it would be written in a file; a mapping: what of it differs from its own defaults."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bench.StdioConsoleSpec):
        return {"kind": value.kind}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return to_jsonable_python(value)


@pytest.mark.parametrize("title", list(SECTIONS))
def test_every_default_is_the_one_that_there_is(title: str) -> None:
    for (_, _, cell), (name, field) in zip(table(title), SECTIONS[title].model_fields.items(), strict=True):
        if cell == "required":
            assert field.is_required(), name
        else:
            assert not field.is_required(), name
            assert yaml.safe_load(code(cell)[0]) == default_of(field), name


def test_every_part_of_a_bench_file_has_a_section() -> None:
    parts: Any = schema()["$defs"]

    assert set(parts) == {kind.__name__ for kind in SECTIONS.values()} - {"Bench"} | {"SshAccess"}


def test_the_image_in_qemu_is_logged_in_to_by_what_is_said() -> None:
    (said,) = (cells[1] for cells in table("host: nested") if code(cells[0]) == ["ssh"])

    assert set(code(said)) == set(bench.SshHostSpec.model_fields) - set(bench.SshAccess.model_fields)


def test_every_placeholder_is_described() -> None:
    found = {code(cells[0])[0] for cells in rows(section(MANUAL, "How the file is read"))}

    assert found == {f"{{{name}}}" for name in (*FIXED, "scratch", *bench.PLACEHOLDERS)}


def test_every_service_that_may_be_judged_is_described() -> None:
    said = [code(cells[0])[0] for cells in rows(section(MANUAL, "service")) if cells[0] not in ("`window`", "`judged`")]
    parts: Any = schema()["$defs"]

    assert said == parts["ServiceSpec"]["properties"]["judged"]["enum"]


def test_every_example_bench_is_named() -> None:
    named = {name for cells in rows(section(MANUAL, "From nothing to a run")) for name in code(cells[0])}

    assert named == {path.name for path in (ROOT / "fixtures" / "benches").glob("*.yaml")}


def test_the_file_that_is_written_from_nothing_is_good(tmp_path: Path) -> None:
    (text,) = (block.text for block in blocks(MANUAL, "yaml"))
    (tmp_path / "my-bench.yaml").write_text(text)

    guest = bench.load_bench(tmp_path / "my-bench.yaml").guests[0]

    assert guest.vm_name == "POST_STD_VM1" and guest.own_system


def test_the_schema_is_one_for_editors() -> None:
    whole: Any = schema()

    assert whole["$schema"].startswith("https://json-schema.org/")
    for name, part in {"Bench": whole, **whole["$defs"]}.items():
        assert part["additionalProperties"] is False, name
        for key, value in part["properties"].items():
            assert "description" in value, f"{name}.{key}"
