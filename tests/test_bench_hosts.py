"""Bench files for machines behind SSH and in QEMU: what is left out, what does not fit together, how it is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from harness.bench import (
    AcrnDmSpec,
    LockReservationSpec,
    NestedHostSpec,
    SshHostSpec,
    StdioConsoleSpec,
    load_bench,
    ssh_of,
)
from harness.yamlfile import FileProblems
from tests.docs_support import ROOT

SSH = dedent("""\
    version: 1
    name: mine
    host:
      kind: ssh
      address: nuc
    guests:
      - name: vm0
        device_model:
          kind: acrn-dm
          arguments: ["--cmd_monitor", "{monitor}", "{vm}"]
    """)
NESTED = SSH.replace("  kind: ssh\n  address: nuc\n", "  kind: nested\n  image: acrn.img\n")
LOCAL = "version: 1\nname: mine\nhost:\n  kind: local\nguests:\n  - name: vm0\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With files that a bench may name."""
    for name in ("acrn.img", "acrn.vdi", "vmlinuz", "secret", "key"):
        (tmp_path / name).touch(0o600)
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o644)
    return tmp_path


def problems_of(folder: Path, text: str) -> list[tuple[int, str, str]]:
    path = folder / "bench.yaml"
    path.write_text(text)
    try:
        load_bench(path)
    except FileProblems as error:
        return [(problem.line, problem.path, problem.text) for problem in error.problems]
    return []


def test_what_is_left_out_is_as_benches_have_it(folder: Path) -> None:
    (folder / "bench.yaml").write_text(SSH)

    bench = load_bench(folder / "bench.yaml")

    assert isinstance(bench.host, SshHostSpec)
    assert (bench.host.port, bench.host.user, bench.host.sudo, bench.host.python) == (None, None, False, "python3")
    assert (bench.host.connect_timeout, bench.host.boot_timeout) == (10, 300)
    assert bench.power is None
    assert isinstance(bench.reservation, LockReservationSpec)
    assert (bench.reservation.wait, bench.reservation.expires) == (0, 120)
    assert bench.service.judged == "behind-acrn-dm"
    assert (bench.quiet.seconds, bench.quiet.timeout) == (3, 60)
    assert bench.parallel == 1
    (guest,) = bench.guests
    assert guest.hypervisor == ("ACRNACRNACRN",)
    assert guest.console == StdioConsoleSpec()
    assert (guest.agent.variant, guest.agent.over) == ("auto", "console")
    assert guest.own_system and not guest.alone


def test_what_is_said_stands(folder: Path) -> None:
    text = SSH.replace("name: vm0", "name: vm0\n    hypervisor: [TCGTCGTCGTCG]").replace(
        "guests:", "reservation: null\nparallel: 3\nservice: {judged: project}\nguests:"
    )
    (folder / "bench.yaml").write_text(text)

    bench = load_bench(folder / "bench.yaml")

    assert bench.reservation is None
    assert (bench.parallel, bench.service.judged) == (3, "project")
    assert bench.guests[0].hypervisor == ("TCGTCGTCGTCG",)


def test_a_local_bench_has_none_of_it(folder: Path) -> None:
    (folder / "bench.yaml").write_text(LOCAL)

    bench = load_bench(folder / "bench.yaml")

    assert (bench.power, bench.reservation, ssh_of(bench.host)) == (None, None, None)
    assert (bench.parallel, bench.service.judged) == (2, "project")
    assert bench.guests[0].ends_by == "destroy"


@pytest.mark.parametrize(
    ("vrtc", "ending", "by"),
    [("dm", "null", "destroy"), ("hv", "null", "inside"), ("hv", "signal", "signal"), ("dm", "inside", "inside")],
)
def test_a_real_time_vm_is_ended_from_inside(folder: Path, vrtc: str, ending: str, by: str) -> None:
    (folder / "bench.yaml").write_text(SSH.replace("name: vm0", f"name: vm0\n    vrtc: {vrtc}\n    ending: {ending}"))

    assert load_bench(folder / "bench.yaml").guests[0].ends_by == by


def test_placeholders_are_filled_in_where_they_are_known(folder: Path) -> None:
    text = SSH.replace('"{vm}"]', '"{harness}", "{scratch}/x", "{python}", "{\\"json\\": 1}", "{vm}"]')
    (folder / "bench.yaml").write_text(text.replace("address: nuc", "address: nuc\n  identity: '{scratch}/key'"))

    bench = load_bench(folder / "bench.yaml")

    model = bench.guests[0].device_model
    assert isinstance(model, AcrnDmSpec) and isinstance(bench.host, SshHostSpec)
    command = model.command({"vm": "vm0-1", "monitor": "/run/m"})
    assert command[:3] == ["acrn-dm", "--cmd_monitor", "/run/m"]
    assert command[3:] == [str(ROOT), f"{bench.scratch}/x", sys.executable, '{"json": 1}', "vm0-1"]
    assert bench.host.identity == bench.scratch / "key"
    assert not bench.scratch.exists()


def test_each_bench_file_has_a_folder_of_its_own(folder: Path) -> None:
    (folder / "other").mkdir()
    for path in (folder / "bench.yaml", folder / "other" / "bench.yaml"):
        path.write_text(SSH)

    first, second = (load_bench(path).scratch for path in (folder / "bench.yaml", folder / "other" / "bench.yaml"))

    assert first != second
    assert first.name.startswith("bench-")


@pytest.mark.parametrize(
    ("guest", "alone"),
    [
        ("", False),
        ("vm_name: POST_VM", True),
        ("console: {kind: pty, path: '/run/{vm}.pty'}", False),
        ("console: {kind: pty, path: /run/pty}", True),
        ("console: {kind: socket, address: 'localhost:4000'}", True),
    ],
)
def test_a_kind_of_guest_with_one_of_something_runs_alone(folder: Path, guest: str, alone: bool) -> None:
    (folder / "bench.yaml").write_text(SSH.replace("name: vm0", f"name: vm0\n    {guest}"))

    assert load_bench(folder / "bench.yaml").guests[0].alone is alone


def test_an_image_in_qemu_is_reached_by_ssh_too(folder: Path) -> None:
    text = NESTED.replace("image: acrn.img", "image: acrn.img\n  ssh: {user: root, sudo: true}\n  boot_timeout: 7")
    (folder / "bench.yaml").write_text(text)

    host = load_bench(folder / "bench.yaml").host

    assert isinstance(host, NestedHostSpec)
    assert (host.image, host.image_format) == (folder / "acrn.img", "raw")
    assert (host.detects, host.accelerator, host.memory, host.processors) == (
        "Hypervisor detected: ACRN", "kvm", 4096, 4,
    )  # fmt: skip
    reached = host.ssh.at("127.0.0.1", port=4022, boot_timeout=host.boot_timeout)
    assert isinstance(reached, SshHostSpec)
    assert (reached.address, reached.port, reached.user, reached.sudo) == ("127.0.0.1", 4022, "root", True)
    assert (reached.kind, reached.boot_timeout, reached.connect_timeout) == ("ssh", 7, 10)


GUEST = "  - name: vm0\n"
MODEL = '    device_model:\n      kind: acrn-dm\n      arguments: ["--cmd_monitor", "{monitor}", "{vm}"]\n'
# A bench, a part of it, what stands there instead; then in which line, at which key, what is said.
WRONG = [
    (SSH, "  address: nuc\n", "", 3, "host.address", "is missing; should be the host's name"),
    (SSH, "address: nuc", "adress: nuc", 5, "host.adress", "unknown key; did you mean 'address'?"),
    (SSH, "address: nuc", "address: 'no/name'", 5, "host.address", "should be the host's name"),
    (SSH, "address: nuc", "address: nuc\n  port: 70000", 6, "host.port", "is 70000; should be a port from 1 to 65535"),
    (SSH, "address: nuc", "address: nuc\n  image: x", 6, "host.image", "unknown key; known here: address, b"),
    (SSH, "address: nuc", "address: nuc\n  ssh: {}", 6, "host.ssh", "unknown key"),
    (SSH, "address: nuc", "address: nuc\n  sudo: 1", 6, "host.sudo", "is 1; should be true"),
    (SSH, "address: nuc", "address: nuc\n  identity: gone", 6, "host.identity", "no such file: .*/gone"),
    (SSH, "address: nuc", "address: nuc\n  identity: open", 6, "host.identity", "by others than its owner; chmod 600"),
    (SSH, "address: nuc", "address: nuc\n  identity: '{scrach}/x'", 6, "host.identity", "scrach}; known here: {scr"),
    (SSH, "address: nuc", "address: nuc\n  known_hosts: gone", 6, "host.known_hosts", "no such file"),
    (SSH, "address: nuc", "address: nuc\n  host_key: abc", 6, "host.host_key", "should be the host's public key"),
    (SSH, "address: nuc", f"address: nuc\n  host_key: {KEY[:-4]}", 6, "host.host_key", "no whole key of type"),
    (SSH, "address: nuc", "address: nuc\n  host_key: ssh-rsa" + KEY[11:], 6, "host.host_key", "no whole key of type"),
    (
        *(SSH, "address: nuc", f"address: nuc\n  host_key: {KEY}\n  known_hosts: open"),
        *(6, "host.host_key", "stands beside known_hosts; name one"),
    ),
    (SSH, "address: nuc", "address: nuc\n  password: hunter2", 6, "host.password", "no secret may stand in this file"),
    (SSH, "address: nuc", "address: nuc\n  password_env: 'h u'", 6, "host.password_env", "not the secret itself"),
    (SSH, "address: nuc", "address: nuc\n  password_file: open", 6, "host.password_file", "by others .*chmod 600"),
    (
        *(SSH, "address: nuc", "address: nuc\n  password_env: X\n  password_file: secret"),
        *(3, "host", "has a password_env and a password_file; name one of them"),
    ),
    (
        *(SSH, "kind: acrn-dm", "kind: script\n      program: launch.sh"),
        *(10, "guests[0].device_model.program", "no absolute path"),
    ),
    (
        *(SSH, "kind: acrn-dm", "kind: acrn-dm\n      program: ./dm"),
        *(10, "guests[0].device_model.program", "or a name in the"),
    ),
    (SSH, "guests:", "qemu: {accelerator: tcg}\nguests:", 6, "qemu", "is for a local host; .*: leave it out"),
    (SSH, "guests:", "rtc: {}\nguests:", 6, "rtc", "is for a local host; a guest's RTC starts there with what the"),
    (SSH, "guests:", "power: {kind: comands}\nguests:", 6, "power.kind", "one of commands, labgrid, manual"),
    (SSH, "guests:", "power: {on: [x]}\nguests:", 6, "power.kind", "is missing; should be one of commands, labgrid,"),
    (SSH, "guests:", "power: on\nguests:", 6, "power", "is true; should be a mapping"),
    (SSH, "guests:", "power: {kind: commands, on: x, off: [x]}\nguests:", 6, "power.on", "is the text 'x'; should"),
    (SSH, "guests:", "power: {kind: commands, on: [], off: [x]}\nguests:", 6, "power.on", "has 0 entries"),
    (SSH, "guests:", "power: {kind: commands, on: [x]}\nguests:", 6, "power.off", "is missing; should be a list"),
    (SSH, "guests:", "power: {kind: commands, on: [7], off: [x]}\nguests:", 6, "power.on[0]", "put it in quotes"),
    (SSH, "guests:", "power: {kind: manual, on: [x]}\nguests:", 6, "power.on", "known here: cool_down, kind"),
    (SSH, "guests:", "power: {kind: labgrid}\nguests:", 6, "power.environment", "is missing; should be labgrid's"),
    (
        *(SSH, "guests:", "power: {kind: commands, on: [x, '{pyton}'], off: [x]}\nguests:"),
        *(6, "power.on[1]", "has the placeholder {pyton}, which nothing will fill in; did you mean {python}?"),
    ),
    (SSH, "guests:", "reservation: {kind: lock, folder: open}\nguests:", 6, "reservation.folder", "is a file; should"),
    (SSH, "guests:", "reservation: {kind: labgrid}\nguests:", 6, "reservation.place", "is missing; should be the name"),
    (SSH, "guests:", "quiet: {second: 1}\nguests:", 6, "quiet.second", "did you mean 'seconds'?"),
    (SSH, "guests:", "service: {judged: hms}\nguests:", 6, "service.judged", "is the text 'hms'; should be project"),
    (SSH, "guests:", "service: {judged: hsm}\nguests:", 8, "guests[0].vrtc", "no event comes to /dev/acrn_hsm"),
    (SSH, GUEST, GUEST + "    machine: q35\n", 8, "guests[0].machine", "is for a local host"),
    (SSH, GUEST, GUEST + "    disk: acrn.img\n", 8, "guests[0].disk", "is for a local host"),
    (SSH, GUEST, GUEST + "    vrtc: hv\n    ending: destroy\n", 9, "guests[0].ending", "acrn-dm refuses for a"),
    (SSH, MODEL, "", 7, "guests[0].device_model", "is missing; should be a mapping with `kind: acrn-dm`"),
    (SSH, "kind: acrn-dm", "kind: acrn_dm", 9, "guests[0].device_model.kind", "one of acrn-dm, running, script"),
    (SSH, '"{monitor}"', '"/run/m"', 10, "guests[0].device_model.arguments", "have no {monitor}, so nobody would know"),
    (SSH, '"{vm}"', '"{vn}"', 10, "guests[0].device_model.arguments[2]", "{vn}, which .*; did you mean {vm}?"),
    (SSH, GUEST, GUEST + "    kernel: vmlinuz\n", 8, "guests[0].kernel", "used by nobody: .* have no {kernel}"),
    (SSH, GUEST, GUEST + "    memory: 64\n", 8, "guests[0].memory", "used by nobody: .* have no {memory}"),
    (SSH, GUEST, GUEST + "    system: bare\n", 11, "guests[0].device_model.arguments", "a bare guest gets its agent"),
    (SSH, '"{vm}"', '"{kernel}"]\n    login: {}\n    # [', 11, "guests[0].login", "is for a system of your own"),
    (SSH, GUEST, GUEST + "    console: {kind: pty}\n", 8, "guests[0].console.path", "is missing; should be an"),
    (SSH, GUEST, GUEST + "    console: {kind: stdoi}\n", 8, "guests[0].console.kind", "one of pty, serial, socket"),
    (SSH, GUEST, GUEST + "    console: {kind: socket}\n", 8, "guests[0].console", "has neither path nor address"),
    (
        *(SSH, GUEST, GUEST + "    console: {kind: socket, path: /x, address: 'h:1'}\n"),
        *(8, "guests[0].console", "has path and address; should have one"),
    ),
    (
        *(SSH, GUEST, GUEST + "    console: {kind: serial, device: /dev/no-such-tty}\n"),
        *(8, "guests[0].console.device", "/dev/no-such-tty: No such file or directory; is the adapter plugged in"),
    ),
    (
        *(SSH, GUEST, GUEST + f"    console: {{kind: serial, device: {ROOT}}}\n"),
        *(8, "guests[0].console.device", "is no serial device"),
    ),
    (SSH, GUEST, GUEST + "    agent: {over: ssh}\n", 8, "guests[0].agent.ssh", "is missing; should be a mapping with"),
    (SSH, GUEST, GUEST + "    agent: {ssh: {address: x}}\n", 8, "guests[0].agent.ssh", "is used by nobody: add `over"),
    (
        *(SSH, GUEST, GUEST + "    agent: {over: ssh, ssh: {adress: x}}\n"),
        *(8, "guests[0].agent.ssh.adress", "did you mean 'address'?"),
    ),
    (SSH, GUEST, GUEST + "    vm_name: 'a b'\n", 8, "guests[0].vm_name", "should be the name by which events"),
    (
        *(SSH, GUEST, GUEST + "    vm_name: A\n" + MODEL + GUEST.replace("vm0", "vm1") + "    vm_name: A\n"),
        *(13, "guests[1].vm_name", r"is A, as of guests\[0\]; should be one of its own"),
    ),
    (NESTED, "image: acrn.img", "image: gone.img", 5, "host.image", "no such file"),
    (NESTED, "  image: acrn.img\n", "", 3, "host.image", "is missing; should be the disk image with ACRN"),
    (NESTED, "image: acrn.img", "image: acrn.vdi", 5, "host.image", "tells its format not by its name; add `format:"),
    (NESTED, "image: acrn.img", "image: acrn.img\n  initrd: acrn.img", 6, "host.initrd", "name a kernel, or leave it"),
    (NESTED, "image: acrn.img", "image: acrn.img\n  ssh: {port: 22}", 6, "host.ssh.port", "unknown key; known here"),
    (NESTED, "image: acrn.img", "image: acrn.img\n  ssh: {usr: x}", 6, "host.ssh.usr", "did you mean 'user'?"),
    (NESTED, "image: acrn.img", "image: acrn.img\n  detects: '('", 6, "host.detects", "is no regular expression"),
    (NESTED, "image: acrn.img", "image: acrn.img\n  memory: 4", 6, "host.memory", "is 4; should be a whole"),
    (LOCAL, "guests:", "power: {kind: manual}\nguests:", 5, "power", "is for a host of kind ssh or nested; this bench"),
    (LOCAL, "guests:", "reservation: null\nguests:", 5, "reservation", "is for a host of kind ssh or nested"),
    (LOCAL, "guests:", "quiet: {}\nguests:", 5, "quiet", "is for a host of kind ssh or nested"),
    (LOCAL, "guests:", "service: {judged: hsm}\nguests:", 5, "service.judged", "there is no acrn-dm on a local host"),
    (LOCAL, "name: vm0", "name: vm0\n    ending: signal", 7, "guests[0].ending", "is for a host of kind ssh or nested"),
    (LOCAL, "name: vm0", "name: vm0\n    vm_name: x", 7, "guests[0].vm_name", "is for a host of kind ssh or nested"),
    (LOCAL, "kind: local", "kind: local\n  address: x", 5, "host.address", "unknown key; known here: kind"),
]


def beside(path: str, key: str) -> bool:
    """Whether a problem at `path` is not about `key` or a part of it."""
    return not (path == key or path.startswith((f"{key}.", f"{key}[")))


@pytest.mark.parametrize(
    ("good", "old", "new", "line", "key", "said"), WRONG, ids=[f"{key}-{new[:30]!r}" for _, _, new, _, key, _ in WRONG]
)
def test_what_is_wrong_is_told_with_its_line_and_key(
    folder: Path, good: str, old: str, new: str, line: int, key: str, said: str
) -> None:
    assert problems_of(folder, good) == []
    assert old in good

    found = problems_of(folder, good.replace(old, new))

    assert (line, key) in [(where, name) for where, name, text in found if re.search(said, text)], found
    others = {name for _, name, _ in found if beside(name, key)}
    assert others <= {"host.address", "power.off", "power.on", "reservation.coordinator", "guests[0].agent.ssh.address"}


RUNNING = SSH.replace(MODEL, "    device_model: {kind: running, monitor: /run/m}\n    console: {kind: pty, path: /x}\n")


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("    console: {kind: pty, path: /x}\n", "", "guests[0].console", "the terminal of whoever started the guest"),
        (GUEST, GUEST + "    ending: signal\n", "guests[0].ending", "a running one goes on running"),
        (GUEST, GUEST + "    memory: 64\n", "guests[0].memory", "this one runs already"),
        (GUEST, GUEST + "    system: bare\n", "guests[0].system", "only the harness starts; should be linux"),
        ("guests:", "service: {judged: project}\nguests:", "service.judged", "a running guest has another"),
        (", monitor: /run/m", "", "guests[0].device_model.monitor", "is missing; should be an absolute path"),
    ],
)
def test_a_guest_that_runs_already_is_neither_started_nor_ended(
    folder: Path, old: str, new: str, key: str, said: str
) -> None:
    assert problems_of(folder, RUNNING) == []

    assert [(name, said in text) for _, name, text in problems_of(folder, RUNNING.replace(old, new))] == [(key, True)]


def test_all_problems_of_a_bench_are_told_at_once(folder: Path) -> None:
    text = dedent("""\
        version: 1
        host: {kind: ssh, port: x, password: hunter2}
        power: {kind: commands, on: x, cooldown: 3}
        reservation: {kind: lok}
        guests:
          - name: a
            vrtc: hv
            ending: destroy
            device_model: {kind: acrn-dm, arguments: ["{moniter}"]}
          - name: b
            device_model: {kind: script, monitor: m}
            console: {kind: socket}
        """)

    found = [(line, key) for line, key, _ in problems_of(folder, text)]

    assert found == [
        (1, "name"),
        (2, "host.address"),
        (2, "host.password"),
        (2, "host.port"),
        (3, "power.cooldown"),
        (3, "power.off"),
        (3, "power.on"),
        (4, "reservation.kind"),
        (8, "guests[0].ending"),
        (9, "guests[0].device_model.arguments"),
        (9, "guests[0].device_model.arguments[0]"),
        (11, "guests[1].device_model.monitor"),
        (11, "guests[1].device_model.program"),
        (12, "guests[1].console"),
    ]


@pytest.mark.parametrize("key", ["password", "passphrase", "secret", "key_passphrase", "sudo_password"])
def test_a_secret_in_the_file_is_refused_and_not_repeated(folder: Path, key: str) -> None:
    (said,) = problems_of(folder, SSH.replace("address: nuc", f"address: nuc\n  {key}: hunter2"))

    assert said[:2] == (6, f"host.{key}")
    assert "'password_env', 'password_file' say where one is" in said[2]
    assert "hunter2" not in said[2]


def test_a_serial_device_that_is_there_is_taken(folder: Path, terminal: str) -> None:
    text = SSH.replace("name: vm0", f"name: vm0\n    console: {{kind: serial, device: {terminal}}}")
    (folder / "bench.yaml").write_text(text)

    guest = load_bench(folder / "bench.yaml").guests[0]

    assert guest.console.kind == "serial" and guest.console.baud == 115200
    assert guest.alone
