"""The parts of an image: the kernel is found on Debian and on Ubuntu, and whatever is missing is named."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests import parts
from harness.guests.cache import Cache
from harness.guests.image import ImageSpec, prepare_image
from tests.test_guests_kernel_image import WITH_ENTRY, bzimage

APT_CACHE = """#!/bin/sh
for name; do :; done
case $name in {meta}) echo "Package: $name
Version: 1
Depends: linux-modules-extra-6.8.0-31-generic, {kernel} (= 1), intel-microcode
";; {kernel}) echo "Package: $name
Version: 6.8.0-31.31
";; *) exit 100;; esac
"""
APT_GET = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *download*) cp {deb} . ;; esac
"""


def programs(folder: Path, **scripts: str) -> None:
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(script)
        path.chmod(0o755)


def make_deb(folder: Path, files: dict[str, bytes]) -> Path:
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <n@localhost>\nDescription: x\n"
    )
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    subprocess.run(["dpkg-deb", "-b", str(tree), str(folder / "x.deb")], check=True, capture_output=True)
    return folder / "x.deb"


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come before the system's: this machine seems to be another distribution."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(("name", "meta"), [(name, meta) for name, metas in parts.KERNELS.items() for meta in metas])
@pytest.mark.parametrize(
    ("payload", "booted"), [(gzip.compress(WITH_ENTRY), "vmlinux"), (b"unknown packing", "vmlinuz")]
)
def test_the_kernel_behind_the_first_known_meta_package_is_kept(
    tmp_path: Path, distribution: Path, name: str, meta: str, payload: bytes, booted: str
) -> None:
    kernel = "linux-image-6.8.0-31-generic"
    image = bzimage(payload, b"6.8.0-31-generic (buildd) #1")
    deb = make_deb(tmp_path, {"boot/vmlinuz-6.8.0-31-generic": image, "usr/share/doc/x": b"x"})
    programs(
        distribution,
        apt_cache=APT_CACHE.format(meta=meta, kernel=kernel),
        apt_get=APT_GET.format(log=tmp_path / "log", deb=deb),
    )
    cache = Cache(tmp_path / "cache")
    found = parts.fetched_kernel(cache, Deadline(60), name)
    assert (found.path.name, found.release) == (booted, "6.8.0-31-generic")
    assert found.package == f"{kernel} 6.8.0-31.31"
    assert found.path.read_bytes() == (WITH_ENTRY if booted == "vmlinux" else image)
    assert found.packed is not None
    assert found.packed.read_bytes() == image
    assert parts.fetched_kernel(cache, Deadline(60), name) == found
    downloads = [line for line in (tmp_path / "log").read_text().splitlines() if "download" in line]
    assert len(downloads) == 1
    assert downloads[0].endswith(f"{kernel}=6.8.0-31.31")


def test_a_kernel_that_apt_does_not_know_is_told_after_asking_with_lists_of_our_own(
    tmp_path: Path, distribution: Path
) -> None:
    programs(
        distribution,
        apt_cache="#!/bin/sh\nexit 100\n",
        apt_get=APT_GET.format(log=tmp_path / "log", deb="none"),
    )
    with pytest.raises(InfrastructureError, match="linux-image-cloud-amd64"):
        parts.fetched_kernel(Cache(tmp_path / "cache"), Deadline(60))
    assert (tmp_path / "log").read_text().rstrip().endswith("update")


def test_a_mirror_out_of_reach_is_told_with_apts_own_words(tmp_path: Path, distribution: Path) -> None:
    programs(
        distribution,
        apt_cache=APT_CACHE.format(meta="linux-image-virtual", kernel="linux-image-6.8.0-31-generic"),
        apt_get="#!/bin/sh\necho 'E: Failed to fetch: Connection refused' >&2\nexit 100\n",
    )
    with pytest.raises(InfrastructureError, match="Connection refused"):
        parts.fetched_kernel(Cache(tmp_path / "cache"), Deadline(60))


def test_a_mirror_that_hangs_is_bounded(tmp_path: Path, distribution: Path) -> None:
    programs(
        distribution,
        apt_cache=APT_CACHE.format(meta="linux-image-virtual", kernel="linux-image-6.8.0-31-generic"),
        apt_get="#!/bin/sh\nexec sleep 600\n",
    )
    with pytest.raises(InfrastructureError, match="apt-get download"):
        parts.fetched_kernel(Cache(tmp_path / "cache"), Deadline(1.0))


def test_a_machine_without_apt_says_what_to_do(
    tmp_path: Path, distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(distribution))
    with pytest.raises(ConfigurationError, match="kernel of your own"):
        parts.fetched_kernel(Cache(tmp_path / "cache"), Deadline(60))


def test_a_machine_without_compiler_names_the_packages(
    tmp_path: Path, distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(distribution))
    with pytest.raises(ConfigurationError, match="gcc and libc6-dev"):
        parts.compiled_agent(Cache(tmp_path), Deadline(60))


def test_a_compiler_without_a_static_library_names_the_packages(tmp_path: Path, distribution: Path) -> None:
    programs(distribution, gcc="#!/bin/sh\necho '/usr/bin/ld: cannot find -lc' >&2\nexit 1\n")
    with pytest.raises(ConfigurationError, match="libc6-dev"):
        parts.compiled_agent(Cache(tmp_path), Deadline(60))


def test_only_a_static_busybox_is_taken_from_this_machine(
    tmp_path: Path, distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = make_deb(tmp_path, {"bin/busybox": b"BusyBox v1.36.1 (Ubuntu 1:1.36.1-6ubuntu3.1) static"})
    programs(
        distribution,
        apt_cache="#!/bin/sh\necho 'Package: busybox-static\nVersion: 1:1.36.1-6'\n",
        apt_get=APT_GET.format(log=tmp_path / "log", deb=deb),
    )
    dynamic = tmp_path / "busybox"
    dynamic.write_bytes(Path("/bin/ls").read_bytes())
    monkeypatch.setattr(parts, "_SYSTEM_BUSYBOX", dynamic)
    fetched = parts.static_busybox(Cache(tmp_path / "cache"), Deadline(60))
    assert parts.busybox_version(fetched) == "1.36.1"


@pytest.mark.parametrize("kind", ["packed", "unpacked"])
@pytest.mark.parametrize("real_time", [True, False])
def test_a_real_time_kernel_is_told_by_its_own_words_and_keeps_its_local_apic(
    tmp_path: Path, kind: str, real_time: bool
) -> None:
    words = "6.1.0-1-amd64 (x) #1 SMP PREEMPT_RT" if real_time else "6.1.0-1-amd64 (x) #1 SMP PREEMPT_DYNAMIC"
    unpacked = WITH_ENTRY + b"\0Linux version " + words.encode() + b"\0"
    (tmp_path / "kernel").write_bytes(bzimage(b"x", words.encode()) if kind == "packed" else unpacked)
    image = prepare_image(ImageSpec(tmp_path / "kernel"), tmp_path / "cache", Deadline(60))
    assert ("nolapic" in image.append.split()) == (not real_time)


def test_the_users_own_kernel_and_initrd_are_used_and_need_no_apt(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage(b"x", b"5.15.0-mine (me) #1"))
    (tmp_path / "initrd").write_bytes(b"an archive of the user's")
    spec = ImageSpec(tmp_path / "kernel", tmp_path / "initrd", "lapic  debug")
    image = prepare_image(spec, tmp_path / "cache", Deadline(60))
    assert image.kernel == tmp_path / "kernel"
    assert image.versions["kernel"] == "5.15.0-mine"
    assert image.initrd is not None
    assert image.initrd.read_bytes().startswith(b"an archive of the user's")
    assert b"rtc-agent" in image.initrd.read_bytes()
    assert image.command_line("beef").endswith("lapic debug rtc.nonce=beef")


@pytest.mark.parametrize("what", ["kernel", "initrd"])
def test_a_file_of_the_users_that_is_not_there_is_a_configuration_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "there").write_bytes(b"x")
    there, missing = tmp_path / "there", tmp_path / "missing"
    spec = ImageSpec(missing, there) if what == "kernel" else ImageSpec(there, missing)
    with pytest.raises(ConfigurationError, match=f"{what} .*missing"):
        prepare_image(spec, tmp_path / "cache", Deadline(60))
