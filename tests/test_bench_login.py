"""Guests that start from a disk image of the user's: what a bench may say of them, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench import load_bench
from harness.yamlfile import FileProblems


def bench_with(folder: Path, guest: str) -> Path:
    """A bench file with one guest, beside files it may name."""
    for name in ("disk.img", "vmlinuz", "secret"):
        (folder / name).touch(0o600)
    path = folder / "bench.yaml"
    path.write_text(f"version: 1\nname: x\nhost: {{kind: local}}\nguests:\n  - {{name: mine, {guest}}}\n")
    return path


def test_a_disk_without_a_kernel_is_started_from(tmp_path: Path) -> None:
    by_itself = load_bench(bench_with(tmp_path, "disk: disk.img, login: {password_file: secret}")).guests[0]
    below_a_kernel = load_bench(bench_with(tmp_path, "disk: disk.img, kernel: debian-cloud")).guests[0]

    assert by_itself.boots_from_disk
    assert by_itself.login is not None
    assert (by_itself.login.user, by_itself.login.password_file) == ("root", tmp_path / "secret")
    assert by_itself.mebibytes == 512
    assert not below_a_kernel.boots_from_disk
    assert below_a_kernel.mebibytes == 96


@pytest.mark.parametrize(
    ("guest", "problem"),
    [
        ("login: {}", "the guest does not start from a disk"),
        ("disk: disk.img, kernel: vmlinuz, login: {}", "the guest does not start from a disk"),
        ("disk: disk.img, append: quiet", "has an append but no kernel"),
        ("disk: disk.img, login: {password: x}", "login.password: no secret may stand in this file; 'password_env',"),
        ("disk: disk.img, login: {password_env: X, password_file: secret}", "name one of them"),
        ("disk: disk.img, login: {password_env: A B}", "environment variable"),
        ("disk: disk.img, login: {login_prompt: '('}", "no regular expression"),
        ("disk: disk.img, login: {user: ''}", "root, or becomes it"),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path: Path, guest: str, problem: str) -> None:
    with pytest.raises(FileProblems) as caught:
        load_bench(bench_with(tmp_path, guest))
    assert problem in str(caught.value)
