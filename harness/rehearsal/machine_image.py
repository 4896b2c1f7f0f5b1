"""The rehearsal machine's image: the distribution's files, the project's device model in acrn-dm's place, its start."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests import initramfs
from harness.guests.cache import Cache, default_cache_dir
from harness.qemu.user_network import ADDRESS
from harness.rehearsal.keys import Keys
from harness.rehearsal.machine_files import MachineFiles, compile_python, machine_files

HOST_KEY = "opt/rtc-bench/host-key"
AUTHORIZED_KEYS = "opt/rtc-bench/authorized-keys"
SAY = "opt/rtc-bench/say"
"""Names of QEMU's fw_cfg entries by which a machine gets its keys, which are in no image and on no command line; and
what it is to say on its console when it starts, as one that dies would."""

MEMORY = 768
"""MiB. The image takes 100 of it, a Linux guest inside about 200."""

PROCESSORS = min(2, os.cpu_count() or 1)
"""With two, a guest inside and what watches it do not wait for each other."""

NETWORK_CARD = "virtio-net-pci,romfile="

KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",  # QEMU ends with it (-no-reboot), and everybody knows
    "nowatchdog",
    "cryptomgr.notests",
    "8250.nr_uarts=1",
    "mitigations=off",
    # A busy machine measures its TSC wrong, and then all its clocks run wrong (harness/guests/image.py).
    "clocksource=hpet",
    "rdinit=/init",
)

_ROOMS = ("vm_event", "vrtc", "qemu", "hypervisor", "devicemodel")
_MODULES = ("__init__.py", "errors.py", "deadline.py")
"""What our device model is made of."""

_PLACE = "/opt/rtc-bench"

_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /run /tmp /root /sbin /usr/sbin /var/empty
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm /run/sshd
$b mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b ln -s /proc/self/fd /dev/fd
$b chmod 1777 /tmp
$b --install -s
for module in {modules}; do insmod /modules/$module; done
hostname rehearsal
ip link set lo up
ip address add {address}/24 dev eth0
ip link set eth0 up
keys=/sys/firmware/qemu_fw_cfg/by_name
if [ -e $keys/{say}/raw ]; then cat $keys/{say}/raw >/dev/console; fi
umask 077
cat $keys/{host_key}/raw >/etc/ssh/host_key
cat $keys/{authorized_keys}/raw >/etc/ssh/authorized_keys
echo 'the rehearsal machine is up' >/dev/kmsg
exec /bin/busybox init
"""
_INITTAB = """::respawn:/usr/sbin/sshd -D -e -f /etc/ssh/sshd_config
::ctrlaltdel:/bin/true
"""
_SSHD = """HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 200
Subsystem sftp internal-sftp
SetEnv PATH=/usr/sbin:/usr/bin:/sbin:/bin
"""
_ACRN_DM = f"""#!/bin/sh
export PYTHONPATH={_PLACE} PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -m harness.devicemodel.acrn_dm "$@"
"""
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534:sshd:/run/sshd:/bin/false\n"


@dataclass(frozen=True)
class MachineImage:
    """What the machine boots: kernel, the two initrds that are one when joined, kernel arguments, versions."""

    kernel: Path
    archives: tuple[Path, Path]
    append: str
    versions: dict[str, str]

    def write_initrd(self, path: Path) -> None:
        """The initrd in one file. Raises OSError."""
        with path.open("wb") as target:
            for archive in self.archives:
                with archive.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)


def machine_image(cache_dir: Path | None, deadline: Deadline) -> MachineImage:
    """Makes the image, or finds it in the cache (`default_cache_dir()` if None).

    Raises ConfigurationError (apt or a Python package is missing) and InfrastructureError (mirror, disk, lock).
    """
    cache = Cache(cache_dir or default_cache_dir())
    files = machine_files(cache, deadline)
    sources = _sources()
    digest = hashlib.sha256(f"{files.archive}".encode() + Path(__file__).read_bytes())
    for name, data in sorted(sources.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    key = digest.hexdigest()[:16]
    folder = cache.get("machine-project", key, lambda folder: _make(folder, files, sources, deadline), deadline)
    versions = {**files.versions, "project": key}
    return MachineImage(files.kernel, (files.archive, folder / "project.cpio"), " ".join(KERNEL_ARGUMENTS), versions)


def key_arguments(keys: Keys) -> list[str]:
    """QEMU's arguments by which a machine gets its keys."""
    entries = ((HOST_KEY, keys.host_key), (AUTHORIZED_KEYS, keys.authorized))
    paths = [(name, str(path.absolute()).replace(",", ",,")) for name, path in entries]
    return [word for name, path in paths for word in ("-fw_cfg", f"name={name},file={path}")]


def _make(folder: Path, files: MachineFiles, sources: dict[str, bytes], deadline: Deadline) -> None:
    with tempfile.TemporaryDirectory(prefix="rtc-machine-") as name:
        root = Path(name)
        for place, data in sources.items():
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        compile_python(files.python, files.python_home, root, _PLACE, deadline)
        made = {f"{_PLACE}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}
    init = _INIT.format(
        modules=" ".join(files.modules), address=ADDRESS, host_key=HOST_KEY, authorized_keys=AUTHORIZED_KEYS,
        say=SAY,
    )
    settings = {
        "/init": init, "/etc/inittab": _INITTAB, "/etc/ssh/sshd_config": _SSHD, "/etc/passwd": _PASSWD,
        "/etc/group": "root:x:0:\nnogroup:x:65534:\n", "/usr/bin/acrn-dm": _ACRN_DM,
    }
    archive = initramfs.pack({**{place: text.encode() for place, text in settings.items()}, **made})
    (folder / "project.cpio").write_bytes(archive)


def _sources() -> dict[str, bytes]:
    """The device model's modules, and the QMP library that it needs, by their places below its folder."""
    root = Path(harness.__file__).parent
    paths = [root / name for name in _MODULES]
    for room in _ROOMS:
        paths += sorted((root / room).glob("**/*.py"))
    sources = {f"harness/{path.relative_to(root)}": path.read_bytes() for path in paths}
    found = importlib.util.find_spec("qemu.qmp")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError("the Python package qemu.qmp is missing", hint="pip install qemu.qmp (./lab does)")
    library = Path(next(iter(found.submodule_search_locations)))
    for path in sorted(library.glob("*.py")):
        sources[f"qemu/qmp/{path.name}"] = path.read_bytes()
    if "qemu/qmp/__init__.py" not in sources:
        raise InfrastructureError(f"the Python package qemu.qmp at {library} is not as expected")
    return sources
