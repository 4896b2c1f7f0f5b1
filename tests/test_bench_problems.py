"""Wrong bench files: every problem is told at once, with its line, its key and what would be right."""

from __future__ import annotations

import os
import re
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.bench import DEFAULT_BENCH, Bench, load_bench
from harness.bench.command import main
from harness.errors import EXIT_CONFIGURATION, ConfigurationError
from harness.yamlfile import FileProblems

GOOD = dedent("""\
    version: 1
    name: mine
    host:
      kind: local
    guests:
      - name: vm0
        machine: pc
    """)


def problems_of(path: Path) -> list[tuple[int, str, str]]:
    with pytest.raises(FileProblems) as caught:
        load_bench(path)
    assert isinstance(caught.value, ConfigurationError)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value), "every problem stands in the message"
    return [(problem.line, problem.path, problem.text) for problem in caught.value.problems]


# A part of the good file, what stands there instead; then in which line, at which key, what is said.
WRONG = [
    ("name: mine", "name: My_Bench", 2, "name", "is the text 'My_Bench'; should be a name of a-z"),
    ("name: mine", "name: 5", 2, "name", r"is 5; .*put it in quotes"),
    ("name: mine", "name: no", 2, "name", r"is false; .*put it in quotes"),
    ("name: mine", "nmae: mine", 2, "nmae", "unknown key; did you mean 'name'?"),
    ("name: mine\n", "", 1, "name", "is missing; should be a name of a-z"),
    ("name: mine", "name: mine\nname: other", 3, "name", "key given twice; the first is in line 2"),
    ("name: mine", "name: mine\non: 1", 3, "on", "unknown key"),
    ("name: mine", "name: mine\n5: 1", 3, "5", "the key is not read as text; put it in quotes"),
    ("name: mine", "name: mine\n? [a]\n: b", 3, "", "has a key that is not plain text"),
    ("name: mine", "name: mine\n<<: {parallel: 2}", 3, "", "merging by '<<' is not supported"),
    ("name: mine", "name: !!binary aGk=", 2, "name", "the tag !!binary has no meaning here"),
    ("name: mine", "name: !!python/object/apply:os.getcwd []", 2, "name", "has no meaning here"),
    ("name: mine", 'name: "a\\0b"', 2, "name", "has no place in a text|not allow"),
    ("kind: local", "kind: shh", 4, "host.kind", "is the text 'shh'; should be one of local, nested, ssh"),
    ("  kind: local\n", "  {}\n", 3, "host.kind", "is missing; should be one of local, nested, ssh"),
    ("host:\n  kind: local", "host: local", 3, "host", r"is the text 'local'; should be a mapping"),
    (
        "machine: pc",
        "machine: q36",
        7,
        "guests[0].machine",
        "is the text 'q36'; should be QEMU's machine",
    ),
    (
        "machine: pc",
        "memory: lots",
        7,
        "guests[0].memory",
        r"is the text 'lots'; should be a whole number of MiB",
    ),
    (
        "machine: pc",
        'memory: "96"',
        7,
        "guests[0].memory",
        r"is the text '96'; should be a whole number of MiB",
    ),
    ("machine: pc", "memory: 4", 7, "guests[0].memory", r"is 4; should be a whole number of MiB from 8"),
    ("machine: pc", "memory: true", 7, "guests[0].memory", "is true; should be a whole number"),
    ("machine: pc", "memory: 96.5", 7, "guests[0].memory", "is 96.5; should be a whole number"),
    ("machine: pc", "memory: 99999999999999999999", 7, "guests[0].memory", "the number is too large"),
    ("machine: pc", "memory: .inf", 7, "guests[0].memory", "no number to calculate with"),
    ("machine: pc", "boot_timeout:", 7, "guests[0].boot_timeout", r"is empty \(null\); should be a number"),
    ("machine: pc", "system: bare\n    append: quiet", 6, "guests[0]", "has append, which a bare guest cannot have"),
    ("machine: pc", "hypervisor: TCG", 7, "guests[0].hypervisor", "is the text 'TCG'; should be a list"),
    ("machine: pc", "hypervisor: []", 7, "guests[0].hypervisor", "has 0 entries; should have at least 1"),
    ("machine: pc", "kernel: sub/vmlinuz", 7, "guests[0].kernel", "no such file: .*/sub/vmlinuz"),
    ("machine: pc", "disk: .", 7, "guests[0].disk", "is a folder; should be a file"),
    ("machine: pc", "disk: ~nobody-has-this-name/x", 7, "guests[0].disk", "cannot be read"),
    ("machine: pc", "disk: " + "x" * 300, 7, "guests[0].disk", "cannot be read: File name too long"),
    ("machine: pc", "initrd: bench.yaml", 6, "guests[0]", "has an initrd but no kernel"),
    ("machine: pc", "system: bare\n    restore: true", 6, "guests[0]", "cannot restore a bare guest"),
    ("machine: pc", "disk: ./bench.yaml\n    restore: true", 6, "guests[0]", "cannot restore .* one with a disk"),
    ("machine: pc", "restore: maybe", 7, "guests[0].restore", "is the text 'maybe'; should be true"),
    ("machine: pc", "vrtc: sos", 7, "guests[0].vrtc", r"is the text 'sos'; should be dm .* or hv"),
    (
        "machine: pc",
        'vrtc: hv\nrtc: {base: "2038-01-01T00:00:00Z"}',
        5,
        "guests",
        "vm0: with vrtc hv, rtc.base should lie after 1970-01-01T00:00:00Z and not after 2037; it is 2038-01-01",
    ),
    ("machine: pc", 'vrtc: hv\nrtc: {base: "1970-01-01T00:00:00Z"}', 5, "guests", "with vrtc hv, rtc.base should"),
    ("machine: pc", "machine: pc\n  - 17", 8, "guests[1]", "is 17; should be a mapping"),
    (
        "machine: pc",
        "machine: pc\n  - name: vm0",
        5,
        "guests",
        "the name vm0 is given to more than one guest",
    ),
    (
        "guests:\n  - name: vm0\n    machine: pc",
        "guests: []",
        5,
        "guests",
        "has 0 entries; should have at least 1",
    ),
    (
        "guests:",
        "qemu: {binary: no-such-qemu}\nguests:",
        5,
        "qemu.binary",
        "no program called no-such-qemu in PATH",
    ),
    ("guests:", "qemu: {binary: ./bench.yaml}\nguests:", 5, "qemu.binary", "bench.yaml is not executable"),
    ("guests:", "qemu: {acelerator: kvm}\nguests:", 5, "qemu.acelerator", "did you mean 'accelerator'?"),
    ("guests:", "service: {window: 0}\nguests:", 5, "service.window", "is 0; should be a number of seconds"),
    (
        "guests:",
        "rtc: {base: 2024-13-45}\nguests:",
        5,
        "rtc.base",
        "is the text '2024-13-45'; should be a time",
    ),
    ("guests:", "rtc: {base: 1718452800}\nguests:", 5, "rtc.base", "is 1718452800; should be a time"),
    ("guests:", "rtc: {base: 1969-12-31T00:00:00Z}\nguests:", 5, "rtc.base", "in the years 1970 to 2099"),
    ("guests:", "parallel: 0\nguests:", 5, "parallel", "is 0; should be a whole number from 1 to 256"),
    ("version: 1", "version: 2", 1, "version", "is 2; this harness reads version 1"),
    ("version: 1", 'version: "1"', 1, "version", "is the text '1'; this harness reads version 1"),
    ("version: 1\n", "", 1, "version", "is missing; should be the format of the file: 1"),
    ("name: mine", "name: [mine", 3, "", "bad YAML"),
    ("name: mine", "name: 'mine", 8, "", "bad YAML.* that began in line 2"),
    ("name: mine", "name: mine\n\tparallel: 2", 3, "", "bad YAML: .*indent with spaces, not with tabs"),
    ("name: mine", "name: mine\n---", 3, "", "has more than one document"),
    ("name: mine", "name: *mine", 2, "", "bad YAML: .*undefined alias"),
    ("name: mine", "name: &x [*x]", 2, "", "an alias stands inside of what it stands for"),
    ("name: mine", "name: mi\x07ne", 2, "", r"has the character '\\x07', which YAML does not allow"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "said"), WRONG, ids=[f"{key}-{new[:24]!r}" for _, new, _, key, _ in WRONG]
)
def test_a_wrong_value_is_told_with_its_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, said: str
) -> None:
    assert old in GOOD
    path = tmp_path / "bench.yaml"
    path.write_text(GOOD.replace(old, new))

    found = problems_of(path)

    matching = [(where, name) for where, name, text in found if re.search(said, text)]
    assert (line, key) in matching, found
    unrelated = [entry for entry in found if entry[1] not in {key, "name"}]
    assert not unrelated, "nothing is said about what is right"


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        dedent("""\
        version: 1
        host: {kind: local, port: 22}
        qemo: {}
        guests:
          - machine: q36
            memory: 96
            memory: 97
          - name: B
        """)
    )

    found = [(line, key) for line, key, _ in problems_of(path)]

    assert found == [
        (1, "name"),
        (2, "host.port"),
        (3, "qemo"),
        (5, "guests[0].machine"),
        (5, "guests[0].name"),
        (7, "guests[0].memory"),
        (8, "guests[1].name"),
    ]


def test_a_problem_reads_as_file_line_key_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(GOOD.replace("machine", "machin"))

    with pytest.raises(FileProblems) as caught:
        load_bench(path)

    said = f"{path}:7: guests[0].machin: unknown key; did you mean 'machine'?"
    assert [str(problem) for problem in caught.value.problems] == [said]


def test_a_file_of_another_version_is_told_as_that_and_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(GOOD.replace("version: 1", "version: 7") + "racks: []\n")

    assert [(line, key) for line, key, _ in problems_of(path)] == [(1, "version")]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"", 1, "is empty"),
        (b"# only a comment\n", 1, "is empty"),
        (b"just a text\n", 1, r"is the text 'just a text'; should be a mapping"),
        (b"- version: 1\n", 1, "is a list; should be a mapping"),
        (b"version: 1\nname: \xff\xfe\n", 2, "is not UTF-8 text"),
        (b"- " * 10_000, 1, "is nested deeper than"),
        (b"[" * 10_000, 1, "is nested deeper than"),
        (b"version: 1\n" + b"a" * (17 << 20), 1, "is larger than 16 MiB"),
    ],
    ids=["empty", "comment", "text", "list", "latin", "deep-block", "deep-flow", "huge"],
)
def test_a_file_that_is_no_bench_file_at_all(tmp_path: Path, content: bytes, line: int, said: str) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(content)

    found = problems_of(path)

    assert [(where, key) for where, key, _ in found] == [(line, "")]
    assert re.search(said, found[0][2])


def test_aliases_that_stand_for_billions_are_refused_before_they_are_spelled_out(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 20) + "]" for i in range(1, 9)]
    path = tmp_path / "bench.yaml"
    path.write_text("a0: &a0 x\n" + "\n".join(levels))

    assert "has more than" in problems_of(path)[0][2]


def test_a_file_that_is_not_there_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text(GOOD)

    found = problems_of(tmp_path / "bnech.yaml")

    assert found == [(1, "", f"no such file; did you mean {tmp_path / 'bench.yaml'}?")]


def test_a_folder_is_no_bench_file(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == [(1, "", "cannot be read: Is a directory")]


def test_a_named_pipe_as_disk_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "bench.yaml"
    path.write_text(GOOD.replace("machine: pc", "disk: pipe"))

    assert load_bench(path).guests[0].disk == tmp_path / "pipe"


def test_the_command_line_tells_problems_and_exits_as_for_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(GOOD.replace("pc", "pcx"))

    status = main(["check", str(path), str(DEFAULT_BENCH)])

    out, err = capsys.readouterr()
    assert status == EXIT_CONFIGURATION
    assert f"{path}:7: guests[0].machine: " in err
    assert f"{DEFAULT_BENCH}: good" in out


FILES = [DEFAULT_BENCH, *(DEFAULT_BENCH.with_name(f"{name}.yaml") for name in ("nuc", "nested", "rehearsal-loopback"))]
SYNTAX = ["- ", ": ", "[", "]", "{", "}", "&a ", "*a", "<<", '"', "'", "#", "---", "...", "|", ">", "? "]
VALUES = ["!!set ", "!x ", "null", "1e999", "0x", "0o9", "1:2", "2024-02-30", "\\ud800", "\0", "\x85"]
PIECES = st.sampled_from([*SYNTAX, *VALUES, "\ufeff", "%YAML 9", "\n", "\t"])


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    lines = draw(st.sampled_from(FILES)).read_text().splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["drop", "double", "swap", "insert", "indent", "cut"]))
        column = draw(st.integers(0, len(lines[at])))
        if change == "drop":
            lines[at] = ""
        elif change == "double":
            lines[at] *= 2
        elif change == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif change == "insert":
            piece = draw(PIECES | st.text(max_size=4))
            lines[at] = lines[at][:column] + piece + lines[at][column:]
        elif change == "indent":
            lines[at] = " " * draw(st.integers(1, 4)) + lines[at]
        else:
            lines[at] = lines[at][:column]
    content = "".join(lines).encode("utf-8", "surrogatepass")
    return content if draw(st.booleans()) else content[: draw(st.integers(0, len(content)))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated_files() | st.binary(max_size=60))
@example(content=b"version: 1\nname: !!int ''\n")
@example(content=b"a: !!int _\nb: !!float _\nc: !!bool x\nd: !!null x\ne: 0b\nf: !!int 1:x")
@example(content=b"%TAG ! tag:x\n--- !y\n")
@example(content=b"? !!str\n: !!map []\n")
def test_whatever_stands_in_a_file_the_answer_is_a_bench_or_a_configuration_error(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(content)

    try:
        bench = load_bench(path)
    except FileProblems as error:
        lines = (
            content.count(b"\n") + content.count(b"\r") + content.count(b"\x85") + content.count(b"\xa8") + 2
        )
        assert error.problems
        assert all(1 <= problem.line <= lines and problem.text for problem in error.problems)
    else:
        assert isinstance(bench, Bench)
