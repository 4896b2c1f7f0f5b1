"""The bundle for a machine without network: its parts, its scripts, and that it installs with no index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from harness import bundle, bundle_parts
from harness.deadline import Deadline
from harness.errors import EXIT_CONFIGURATION, ConfigurationError, InfrastructureError

ROOT = Path(__file__).parents[1]
TIMEOUT = 600.0


def small_package(folder: Path, name: str, depends: str = "") -> Path:
    """A Debian package with nothing in it."""
    control = folder / name / "DEBIAN"
    control.mkdir(parents=True)
    lines = [f"Package: {name}", "Version: 1:2.0", "Architecture: all", "Maintainer: nobody <nobody@example.org>"]
    lines += [f"Depends: {depends}"] if depends else []
    (control / "control").write_text("\n".join([*lines, "Description: nothing", ""]))
    file = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--build", str(control.parent), str(file)], check=True, capture_output=True)
    return file


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose fetched parts are made up, unpacked."""

    def wheels(folder: Path, wanted: object, *_: object, **__: object) -> list[str]:
        folder.mkdir()
        (folder / "nothing.whl").write_bytes(b"wheel")
        return ["nothing.whl"]

    def debs(folder: Path, *_: object) -> list[str]:
        folder.mkdir()
        (folder / "Packages").write_text("")
        return []

    def cache(folder: Path, *_: object, **__: object) -> list[str]:
        (folder / "kernel").mkdir(parents=True)
        return []

    for name, stand_in in (("fetch_wheels", wheels), ("fetch_debs", debs), ("make_cache", cache)):
        monkeypatch.setattr(bundle, name, stand_in)
    file = tmp_path / "a folder" / "bundle.tar.gz"
    assert bundle.main([str(file)]) == 0
    assert [path.name for path in file.parent.iterdir()] == ["bundle.tar.gz"], "nothing unfinished is left"
    with tarfile.open(file) as archive:
        assert {entry.uname for entry in archive} == {"root"}
    other = tmp_path / "other machine"
    other.mkdir()
    subprocess.run(["tar", "xf", file], cwd=other, check=True)
    return other / bundle.NAME


def test_what_is_in_it(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [
        "README.txt", "bundle.json", "cache", "debs", "install-debs", "run-lab", "source", "tools", "wheels",
    ]
    # the project is there, what was made from it is not
    assert (made / "source" / "lab").stat().st_mode & 0o100
    assert (made / "source" / "harness" / "bundle.py").exists()
    assert not list((made / "source").rglob("__pycache__")) and not (made / "source" / ".git").exists()
    # the tools run
    for name, said in (("vm_event.pyz", "usage: vm_event"), ("tools.pyz", "usage: tools.pyz")):
        command: list[str | Path] = [sys.executable, "-I", made / "tools" / name, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert said in done.stdout + done.stderr
    # and the list has every file
    about = json.loads((made / "bundle.json").read_text())
    listed, there = set(about["files"]), {path for path in made.rglob("*") if path.is_file() and not path.is_symlink()}
    assert listed == {str(path.relative_to(made)) for path in there} - {"bundle.json"}
    for package in ("paramiko", "pytest"):
        assert package in (made / "README.txt").read_text()


def test_the_scripts_of_a_bundle(made: Path, tmp_path: Path) -> None:
    for script in ("run-lab", "install-debs"):
        subprocess.run(["sh", "-n", made / script], check=True)
    # run-lab is ./lab of the source with no index and the bundle's cache, from wherever it is called
    told = "$PIP_NO_INDEX|$PIP_FIND_LINKS|$RTC_BENCH_CACHE|$LAB_NO_APT|$*"
    (made / "source" / "lab").write_text(f'#!/bin/sh\necho "{told}"\n')
    environment = {"PATH": os.environ["PATH"]}
    command: list[str | Path] = [made / "run-lab", "hw", "--bench", "a b"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"1|{made}/wheels|{made}/cache|1|hw --bench a b\n"
    wrong = subprocess.run([made / "install-debs", "--frobnicate"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "usage: install-debs" in wrong.stderr


def test_all_that_the_lab_script_installs_is_bundled() -> None:
    named = bundle_parts.lab_packages((ROOT / "lab").read_text())
    assert {"qemu-system-x86", "gcc", "python3-venv"} <= named
    assert named <= set(bundle_parts.PACKAGES)


def test_a_repository_of_packages_is_proven_to_be_complete(tmp_path: Path) -> None:
    # given one that needs another
    folder = tmp_path / "a folder"
    files = [small_package(folder, "rtc-first", "rtc-second (>= 1:2)"), small_package(folder, "rtc-second")]
    (folder / "Packages").write_text("\n".join(bundle_parts._stanza(file) for file in files))
    bundle_parts._prove_complete(folder, ["rtc-first"], Deadline(60))
    # when the other is not there
    (folder / "Packages").write_text(bundle_parts._stanza(files[0]))
    with pytest.raises(InfrastructureError) as caught:
        bundle_parts._prove_complete(folder, ["rtc-first"], Deadline(60))
    assert any("rtc-second" in line for line in caught.value.last_lines)


def test_source_without_git_is_all_but_what_is_made_from_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("harness/code.py", "harness/__pycache__/code.pyc", ".venv/bin/python", "dist/old.tar.gz", "lab"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    assert bundle_parts.copy_source(project, tmp_path / "copy") == 2
    assert sorted(path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()) == ["code.py", "lab"]


def test_what_cannot_be_had_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InfrastructureError, match="could not have the wheels") as caught:
        bundle_parts.fetch_wheels(tmp_path / "wheels", ["no-such-package-of-anybodys"], Deadline(60))
    assert any("no-such-package-of-anybodys" in line for line in caught.value.last_lines)
    with pytest.raises(ConfigurationError, match="no kernel is called debian-xt"):
        bundle_parts.make_cache(tmp_path / "cache", ["debian-xt"], machine=False, deadline=Deadline(60))
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml"):
        bundle_parts.extras(tmp_path)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    assert bundle.main([str(tmp_path / "bundle.tar.gz")]) == EXIT_CONFIGURATION
    assert "configuration error" in capsys.readouterr().err and not (tmp_path / "bundle.tar.gz").exists()


@pytest.mark.soak
def test_the_wheels_install_with_no_index(tmp_path: Path) -> None:
    """From the package index into a bundle, and from there, with none, into a fresh environment."""
    known = bundle_parts.extras(ROOT)
    wanted = [*known[""], *known["ssh"]]
    bundle_parts.fetch_wheels(tmp_path / "wheels", wanted, Deadline(TIMEOUT))
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    offline: list[str | Path] = [python, "-m", "pip", "install", "-q", "--no-index"]
    offline += ["--find-links", tmp_path / "wheels", *wanted]
    subprocess.run(offline, check=True, timeout=TIMEOUT)
    listed: list[str | Path] = [python, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "fixtures.options"]
    listed += ["-p", "no:cacheprovider", "-o", "testpaths=scenarios", "-m", "qemu", "--collect-only"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0 and "test_random_order" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    subprocess.run([python, "-c", "import harness.hosts.nested, harness.hosts.ssh"], cwd=ROOT, check=True, timeout=60)
