"""Good bench files, and the machinery below them for other kinds of file."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest

from harness import bench as bench_module
from harness.bench import DEFAULT_BENCH, GuestSpec, load_bench
from harness.bench.command import main
from harness.bench.fits import ON_BENCHES_GUEST
from harness.yamlfile import FileProblems, load_yaml_model

SMALLEST = "version: 1\nname: mine\nhost: {kind: local}\nguests: [{name: vm0}]\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_bench_that_comes_with_the_project_is_good() -> None:
    bench = load_bench(DEFAULT_BENCH)

    assert bench.name == "qemu-only"
    assert bench.host.kind == "local"
    assert bench.file == DEFAULT_BENCH
    assert [(guest.name, guest.machine, guest.vrtc, guest.system) for guest in bench.guests] == [
        ("pc", "pc", "dm", "linux"),
        ("q35", "q35", "dm", "linux"),
        ("pc-hv", "pc", "hv", "linux"),
        ("bare", "pc", "dm", "bare"),
        ("bare-hv", "pc", "hv", "bare"),
    ]


@pytest.mark.parametrize(
    ("machine", "vrtc", "system", "kind"),
    [
        (None, None, None, "bare"),
        ("q35", None, None, "q35"),
        (None, "hv", None, "bare-hv"),
        ("pc", "dm", None, "bare"),
        (None, None, "linux", "pc"),
        ("q35", "hv", None, None),
        (None, "dm", "bare", "bare"),
        (None, "hv", "bare", "bare-hv"),
        ("q35", None, "bare", None),
    ],
)
def test_a_plan_gets_the_first_kind_that_has_what_it_needs(
    machine: str | None, vrtc: str | None, system: str | None, kind: str | None
) -> None:
    found = load_bench(DEFAULT_BENCH).kind_for(machine, vrtc, system)

    assert (found and found.name) == kind


def test_a_guest_has_the_memory_that_its_system_needs_unless_told_otherwise(tmp_path: Path) -> None:
    guests = "[{name: a}, {name: b, system: bare}, {name: c, system: bare, memory: 64}]"
    text = SMALLEST.replace("[{name: vm0}]", guests)

    assert [guest.mebibytes for guest in load_bench(write(tmp_path / "b.yaml", text)).guests] == [96, 8, 64]


def test_what_the_default_bench_shows_as_defaults_are_the_defaults(tmp_path: Path) -> None:
    shown = load_bench(DEFAULT_BENCH)
    smallest = load_bench(write(tmp_path / "b.yaml", SMALLEST))

    assert (shown.qemu, shown.service, shown.rtc) == (smallest.qemu, smallest.service, smallest.rtc)
    assert shown.guests[0] == smallest.guests[0].model_copy(update={"name": "pc"})


def test_what_the_default_bench_has_as_comments_is_right_too(tmp_path: Path) -> None:
    text = DEFAULT_BENCH.read_text()
    commented = re.compile(r"^    # (?=[a-z_]+: )", re.MULTILINE)
    assert commented.search(text)

    spelled_out = load_bench(write(tmp_path / "b.yaml", commented.sub("    ", text)))

    assert spelled_out.model_dump() == load_bench(DEFAULT_BENCH).model_dump()
    of_a_local_host = set(GuestSpec.model_fields) - set(ON_BENCHES_GUEST)
    assert spelled_out.guests[0].model_fields_set == of_a_local_host, "every key is shown"


def test_names_of_files_start_at_the_folder_of_the_bench_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "vmlinuz").touch()
    write(tmp_path / "lab" / "bench.yaml", SMALLEST.replace("name: vm0", "name: vm0, kernel: ../vmlinuz"))
    monkeypatch.chdir(tmp_path)

    kernel = load_bench(Path("lab/bench.yaml")).guests[0].kernel

    assert isinstance(kernel, Path)
    assert kernel.is_absolute()
    assert kernel.samefile(tmp_path / "vmlinuz")


@pytest.mark.parametrize("name", ["debian-cloud", "debian-standard", "debian-rt"])
def test_a_kernel_may_be_named_and_a_file_of_that_name_is_meant_by_its_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    by_name, by_path = (
        load_bench(write(tmp_path / "b.yaml", SMALLEST.replace("name: vm0", f"name: vm0, kernel: {kernel}")))
        for kernel in (name, f"./{name}")
    )

    assert by_name.guests[0].kernel == name
    assert by_path.guests[0].kernel == tmp_path / name


def test_a_program_may_be_named_by_its_path_or_as_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write(tmp_path / "my-qemu", "#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    for name in ("my-qemu", "./my-qemu", str(program)):
        bench = load_bench(write(tmp_path / "b.yaml", SMALLEST + f"qemu: {{binary: {name}}}\n"))
        assert bench.qemu.binary is not None
        assert bench.qemu.binary.samefile(program)


@pytest.mark.parametrize(
    "written",
    ["2024-06-15T12:00:00Z", '"2024-06-15T12:00:00Z"', "2024-06-15 12:00:00", "2024-06-15T14:00:00+02:00"],
)
def test_the_rtc_base_is_a_time_in_utc_however_it_is_written(tmp_path: Path, written: str) -> None:
    rtc = load_bench(write(tmp_path / "b.yaml", SMALLEST + f"rtc: {{base: {written}}}\n")).rtc

    assert rtc.base == datetime.datetime(2024, 6, 15, 12, tzinfo=datetime.timezone.utc)
    assert rtc.seconds == 1718452800


def test_a_bench_is_a_value_that_nobody_changes() -> None:
    bench = load_bench(DEFAULT_BENCH)

    with pytest.raises(pydantic.ValidationError):
        bench.guests[0].memory = 1


def test_the_json_schema_knows_every_key_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0

    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(bench_module.Bench.model_fields)
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())
    assert all("description" in value for value in schema["$defs"]["GuestSpec"]["properties"].values())


class Tea(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["tea"]
    minutes: int


class Coffee(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["coffee"]
    sugar: Sequence[int] = ()


Order = Annotated[Tea | Coffee, pydantic.Field(discriminator="kind")]


def test_a_file_may_be_a_list_at_the_top(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.yaml", "- {kind: tea, minutes: 3}\n- {kind: coffee, sugar: [1, 2]}\n")

    orders = load_yaml_model(path, list[Order])

    assert orders == [Tea(kind="tea", minutes=3), Coffee(kind="coffee", sugar=[1, 2])]


def test_aliases_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.yaml", "- &usual {kind: tea, minutes: 3}\n- *usual\n")

    assert load_yaml_model(path, list[Order]) == [Tea(kind="tea", minutes=3)] * 2


def test_members_of_a_union_are_told_apart_in_what_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "orders.yaml",
        "- {kind: tee, minutes: 3}\n- {minutes: 3}\n- kind: coffee\n  minute: 3\n- kind: tea\n  minute: 3\n",
    )

    with pytest.raises(FileProblems) as caught:
        load_yaml_model(path, list[Order])

    assert [(p.line, p.path, p.text) for p in caught.value.problems] == [
        (1, "[0].kind", "is the text 'tee'; should be one of coffee, tea"),
        (2, "[1].kind", "is missing; should be one of coffee, tea"),
        (4, "[2].minute", "unknown key; known here: kind, sugar"),
        (5, "[3].minutes", "is missing"),
        (6, "[3].minute", "unknown key; did you mean 'minutes'?"),
    ]
