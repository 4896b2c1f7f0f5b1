"""./lab installs the Debian packages that a run needs, or says which they are."""

from __future__ import annotations

from pathlib import Path

from tests.lab_support import Checkout


def test_a_missing_package_is_installed_without_fetching_lists(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert "lab: installing Debian packages: qemu-system-x86\n" in done.stderr
    apt = [call for call in checkout.calls() if call[0] == "apt-get"]
    assert [call[-4:] for call in apt] == [["install", "-y", "--no-install-recommends", "qemu-system-x86"]]


def test_lists_are_fetched_where_the_package_is_not_found(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()
    Path(f"{checkout.calls_file}.lists-missing").touch()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert checkout.kinds()[:3] == ["apt install", "apt update", "apt install"]


def test_an_installation_that_fails_shows_what_apt_said(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()
    Path(f"{checkout.calls_file}.apt-fails").touch()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert "    | E: the archive is on fire\n" in done.stderr
    assert "could not install qemu-system-x86 (whole log: " in done.stderr
    assert "pytest" not in checkout.kinds()


def test_without_root_and_sudo_the_missing_packages_are_named(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    (checkout.programs / "qemu-system-x86_64").unlink()
    (checkout.programs / "busybox").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert "missing on this machine: qemu-system-x86 busybox-static. " in done.stderr
    assert (
        "As root: apt-get update && apt-get install --no-install-recommends qemu-system-x86 busybox-static"
        in (done.stderr)
    )
    assert checkout.kinds() == []


def test_without_root_sudo_is_asked(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    checkout.program("sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert "apt install" in checkout.kinds()


def test_a_sudo_that_refuses_is_asked_once(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    checkout.program("sudo", "#!/bin/sh\necho sudo: a password is required\nexit 1\n")
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert done.stderr.count("sudo: a password is required") == 1
    assert "could not install qemu-system-x86" in done.stderr


def test_nothing_missing_takes_no_root(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")

    assert checkout.lab("qemu").returncode == 0
    assert "apt install" not in checkout.kinds()


def test_the_hardware_run_needs_no_qemu_here(checkout: Checkout) -> None:
    for name in ("qemu-system-x86_64", "busybox", "gcc", "apt-get"):
        (checkout.programs / name).unlink()

    assert checkout.lab("hw").returncode == 0


def test_a_rehearsal_needs_what_its_bench_file_starts_here(checkout: Checkout) -> None:
    for name in ("qemu-system-x86_64", "busybox"):
        (checkout.programs / name).unlink()
    for name, text in (("mine.yaml", "on: ['{python}', -m, harness.rehearsal.loopback]"), ("other.yaml", "version: 1")):
        (checkout.path / name).write_text(text)

    refused = checkout.lab("hw", "--bench", "mine.yaml", LAB_NO_APT="1")

    assert refused.returncode == 10
    assert "missing on this machine: qemu-system-x86 " in refused.stderr and "busybox-static" in refused.stderr
    assert checkout.lab("hw", "--bench=other.yaml", LAB_NO_APT="1").returncode == 0


def test_the_tests_need_strace_and_the_scenarios_do_not(checkout: Checkout) -> None:
    (checkout.programs / "strace").unlink()

    assert checkout.lab("qemu").returncode == 0
    refused = checkout.lab("tests", LAB_NO_APT="1")

    assert refused.returncode == 10
    assert "missing on this machine: strace " in refused.stderr
