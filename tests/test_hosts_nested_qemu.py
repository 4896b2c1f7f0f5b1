"""A nested host's machine as a real QEMU process: how it fails, by name and at once, and that nothing is left of it.

What it boots here says nothing of use; the machine that comes up is for the nightly run (test_rehearsal_nightly.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.bench import NestedHostSpec
from harness.bench.hosts import SshAccess
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests import prepare_bare_image
from tests.vm_event_support import PATIENCE, eventually

pytest.importorskip("paramiko")
from harness.hosts.nested import NestedHost

pytestmark = pytest.mark.qemu

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
ASSERTION = "Assertion failed in file {file},line 256 : fatal error"


def spec(**keys: Any) -> NestedHostSpec:
    """A machine that starts, and whose SSH never answers."""
    kernel = prepare_bare_image(None, Deadline(PATIENCE)).kernel
    ssh = SshAccess(user="root", host_key=KEY)
    usual = {"kernel": kernel, "accelerator": "tcg", "memory": 256, "processors": 1, "detects": None, "ssh": ssh}
    return NestedHostSpec(kind="nested", **{**usual, **keys}).model_copy(
        update={key: keys[key] for key in ("boot_timeout", "qemu") if key in keys}
    )


def speaking_qemu(folder: Path, *said: str) -> Path:
    """QEMU whose console says something first: one line at each start, nothing once they are used up."""
    lines = folder / "lines"
    lines.write_text("".join(f"{line}\n" for line in said))
    program = folder / "speaking-qemu"
    program.write_text(
        "#!/bin/bash\n"
        'console=$(sed -n "s/.*socket,id=console,fd=\\([0-9]*\\).*/\\1/p" <<<"$*")\n'
        f'said=$(head -n 1 {lines}); sed -i 1d {lines}; echo "$said" >&"$console"\n'
        f'exec {shutil.which("qemu-system-x86_64")} "$@"\n'
    )
    program.chmod(0o755)
    return program


def outcomes(folder: Path) -> list[str]:
    return [json.loads(line)["outcome"] for line in (folder / "nested.jsonl").read_text().splitlines()]


def fails(folder: Path, made: NestedHostSpec) -> BenchError:
    """The error with which it does not come up; nothing of it is left then."""
    host = NestedHost(made, folder)
    threads = set(threading.enumerate())
    with pytest.raises(BenchError) as caught:
        host.__enter__()
    assert qemus(folder) == []
    eventually(lambda: set(threading.enumerate()) <= threads, "the end of its threads")
    return caught.value


def qemus(folder: Path) -> list[int]:
    """QEMU processes of this test: its children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and "qemu" in (path.parent / "comm").read_text():
            found.append(int(path.parent.name))
    return found


def test_arguments_that_qemu_refuses_are_the_users_to_mend(tmp_path: Path) -> None:
    error = fails(tmp_path, spec(arguments=("-frobnicate",)))
    assert isinstance(error, ConfigurationError)
    assert "-frobnicate" in error.problem and "arguments" in error.hint


def test_a_machine_that_never_answers_is_told_with_how_far_it_came(tmp_path: Path) -> None:
    started = time.monotonic()
    error = fails(tmp_path, spec(boot_timeout=1.0, qemu=speaking_qemu(tmp_path, "ACRN Hypervisor")))
    assert isinstance(error, InfrastructureError)
    assert "does not answer by SSH; it has come as far as the hypervisor" in error.problem
    assert error.log == tmp_path / "nested-console.log" and any("ACRN Hypervisor" in line for line in error.last_lines)
    assert time.monotonic() - started < PATIENCE
    # and every line is kept with its times
    line = (tmp_path / "nested-console.log").read_text().splitlines()[0]
    assert re.fullmatch(r"\d+ \d{4}-\d\d-\d\dT[\d:.]+\+00:00 ACRN Hypervisor", line)


def test_the_assertion_that_comes_and_goes_gets_one_more_try_and_is_recorded(tmp_path: Path) -> None:
    # given a hypervisor that stops there at its first boot and, in its second, at one that does not go away
    transient, lasting = ASSERTION.format(file="arch/x86/vtd.c"), ASSERTION.format(file="arch/x86/vmx.c")
    error = fails(tmp_path, spec(qemu=speaking_qemu(tmp_path, transient, lasting)))
    # then the second is the result
    assert isinstance(error, InfrastructureError)
    assert lasting in error.problem and "stopped at an assertion" in error.problem
    # and both are on record
    first, second = outcomes(tmp_path)
    assert transient in first and lasting in second


def test_a_transient_assertion_twice_is_an_infrastructure_error(tmp_path: Path) -> None:
    transient = ASSERTION.format(file="arch/x86/vtd.c")
    error = fails(tmp_path, spec(qemu=speaking_qemu(tmp_path, transient, transient, transient)))
    assert isinstance(error, InfrastructureError) and transient in error.problem
    assert len(outcomes(tmp_path)) == 2


def test_any_other_assertion_is_not_tried_again(tmp_path: Path) -> None:
    error = fails(tmp_path, spec(qemu=speaking_qemu(tmp_path, ASSERTION.format(file="acpi_parser/dmar_parse.c"))))
    assert "dmar_parse.c" in error.problem and "IOMMU" in error.hint
    assert len(outcomes(tmp_path)) == 1


def test_a_qemu_that_dies_while_it_boots_is_told_at_once(tmp_path: Path) -> None:
    host = NestedHost(spec(boot_timeout=60.0), tmp_path)

    def kill() -> None:
        eventually(lambda: qemus(tmp_path), "QEMU")
        os.kill(qemus(tmp_path)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match="signal 9"):
        host.__enter__()
    killer.join()
    assert time.monotonic() - started < PATIENCE
    assert qemus(tmp_path) == []


def test_a_machine_that_cannot_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ACRN cannot start"):
        NestedHost(spec(detects="Hypervisor detected: ACRN"), tmp_path).__enter__()
    assert not (tmp_path / "nested.jsonl").exists()
