"""The hypervisor's tunnel on an ACRN Service VM: a page and a kick, registered on a VM's `/dev/acrn_hsm` descriptor.

Rehearsed, not run on ACRN: the two requests and their arguments are checked under strace, the page by a double that
does with it what kernel and hypervisor do. Facts from ACRN's source that a user has to know:

- Only a descriptor that owns a VM works, and only the VM's `acrn-dm` has one: inherit it, or `take_over` a duplicate.
- Registering replaces `acrn-dm`'s own ring for good: from then on its monitor socket tells nothing of the hypervisor's
  events. A full reset restarts `acrn-dm`'s event service, which registers its ring again: then this one falls silent.
- The hypervisor's RTC events exist for real-time VMs only.
- The kernel ends a VM when the last descriptor of it is closed. Once the tunnel is open it needs none: whoever keeps a
  duplicate keeps the VM of an `acrn-dm` that has died.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import stat
from contextlib import ExitStack

from .abi import PAGE_SIZE
from .errors import SourceError
from .ring import SharedRing, format_page
from .tunnel import Tunnel
from .typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HSM_DEVICE = "/dev/acrn_hsm"

#: _IOW(0xA2, 0xa0, u64): the argument is the ring page's address itself, not a pointer to it.
SETUP_VM_EVENT_RING = 0x4008A2A0
#: _IOW(0xA2, 0xa1, int): the argument is the eventfd itself.
SETUP_VM_EVENT_FD = 0x4004A2A1

#: System calls that Python has no name for. The number of kcmp is x86-64's, as ACRN is.
_PIDFD_GETFD = 438
_KCMP = 312
_KCMP_FILE = 0

_NO_VM_EVENT = f"it is not {HSM_DEVICE}, or this kernel's HSM module has no vm_event (ACRN's Service VM kernel has)"
_NOT_ALLOWED = "it may not be done by this user: root of the Service VM may"
_NO_DEVICE = "there is no such device (any more): this is no ACRN Service VM, or the VM is gone"
_MEANINGS = {
    errno.EINVAL: "it owns no VM: only the descriptor of the VM's acrn-dm does, one opened anew never",
    errno.ENOTTY: _NO_VM_EVENT,
    errno.EPERM: _NOT_ALLOWED,
    errno.EACCES: _NOT_ALLOWED,
    errno.ENOENT: _NO_DEVICE,
    errno.ENODEV: _NO_DEVICE,
    errno.ENXIO: _NO_DEVICE,
    errno.EFAULT: "the kernel could not give the page to the hypervisor",
}


def open_hsm_tunnel(descriptor: int) -> Tunnel:
    """A tunnel that the hypervisor fills: page and kick are registered on `descriptor`, which stays the caller's.

    The page is mapped as long as the tunnel is open. Closing it takes nothing from under the hypervisor: the kernel has
    pinned the page and holds the eventfd until the VM ends or others are registered, so the hypervisor goes on writing
    where nobody reads. A new tunnel on the same descriptor is a new page, with nothing of the old one's.

    Raises SourceError, which says what is wrong with the descriptor; then nothing of this process stays open. If only
    the kick could not be registered, the ring is all the same, and `acrn-dm`'s is replaced: the text says so.
    """
    _check(descriptor)
    with ExitStack() as undo:
        # Shared: of a private page, a fork of this process would leave a copy with us and the original with the kernel.
        page = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        format_page(page)  # before the hypervisor sees it: it refuses a page without the magic
        ring = SharedRing(page)
        undo.callback(ring.close)
        # Kicked once from the start: what is put before the kick is registered, nobody else kicks for.
        kick = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        undo.callback(os.close, kick)
        try:
            _call_through("ioctl", descriptor, SETUP_VM_EVENT_RING, _address_of(page))
        except OSError as error:
            meaning = _MEANINGS.get(error.errno or 0)
            text = f"{error.strerror}: {meaning}" if meaning else error.strerror
            raise SourceError(
                f"HSM descriptor {descriptor}: SETUP_VM_EVENT_RING ({SETUP_VM_EVENT_RING:#x}): {text}"
            ) from error
        try:
            _call_through("ioctl", descriptor, SETUP_VM_EVENT_FD, kick)
        except OSError as error:
            raise SourceError(
                f"HSM descriptor {descriptor}: acrn-dm's ring is replaced by ours, but its eventfd is refused: "
                f"SETUP_VM_EVENT_FD ({SETUP_VM_EVENT_FD:#x}): {error.strerror}"
            ) from error
        tunnel = Tunnel(ring, kick)
        undo.pop_all()
    return tunnel


def take_over(pid: int, *, device: Path | str = HSM_DEVICE, descriptor: int | None = None) -> int:
    """Duplicate the HSM descriptor of a running `acrn-dm`: a new descriptor of this process, the caller's to close.

    `descriptor`: its number over there, for a process that has opened the device more than once; duplicates of one
    opening count as one. `device`: what the HSM is called here; descriptors are recognised by the device's number,
    whatever name the other process opened it by.

    Raises SourceError: no such device or process, no permission (ptrace access to the process is needed, as root has
    it), no such descriptor there, or several and none chosen.
    """
    number = _device_number(device)
    with ExitStack() as opened:
        try:
            # Whatever process the number may mean a moment later: what is duplicated is this one's.
            process = os.pidfd_open(pid)
            opened.callback(os.close, process)
            found = _descriptors_of_device(pid, number)
            if not found and _has_ended(process):
                raise ProcessLookupError(errno.ESRCH, "ended, and not yet waited for by its parent")
            if descriptor is None:
                descriptor = _only_one(pid, device, found)
            elif descriptor not in found:
                raise SourceError(f"process {pid}: descriptor {descriptor} is not {device}; those that are: {found}")
            return _duplicate(process, descriptor, number)
        except (OSError, OverflowError) as error:
            raise SourceError(f"process {pid}: {_why_not_taken(device, error)}") from error


def _check(descriptor: int) -> None:
    """Raises SourceError for what is no open device. To be called before anything is opened: it gets the lowest free
    number, which may be the one that was meant to be passed on to this process.
    """
    try:
        mode = os.fstat(descriptor).st_mode
    except OverflowError as error:
        raise SourceError(f"HSM descriptor {descriptor}: not a descriptor") from error
    except OSError as error:
        text = f"{error.strerror}: it is not open in this process; was it passed on?"
        raise SourceError(f"HSM descriptor {descriptor}: {text}") from error
    if not stat.S_ISCHR(mode):
        raise SourceError(f"HSM descriptor {descriptor}: not a device, so not {HSM_DEVICE}")


def _device_number(device: Path | str) -> int:
    try:
        status = os.stat(device)
    except OSError as error:
        raise SourceError(f"{device}: {error.strerror}: this is no ACRN Service VM, or it has no HSM module") from error
    if not stat.S_ISCHR(status.st_mode):
        raise SourceError(f"{device}: not a device")
    return status.st_rdev


def _descriptors_of_device(pid: int, number: int) -> list[int]:
    """Which of the process' descriptors refer to the character device of this number. Raises OSError."""
    folder = f"/proc/{pid}/fd"
    found = []
    for name in os.listdir(folder):
        try:
            if _is_device(os.stat(f"{folder}/{name}"), number):
                found.append(int(name))
        except FileNotFoundError:
            pass  # closed meanwhile
    return sorted(found)


def _is_device(status: os.stat_result, number: int) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == number


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))


def _only_one(pid: int, device: Path | str, found: list[int]) -> int:
    """The descriptor to take, where there is no choice. Raises SourceError, OSError."""
    if not found:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            command = file.read().strip()
        raise SourceError(f"process {pid} ({command}) has no descriptor of {device}: is it an acrn-dm?")
    first, *others = found
    if not all(_same_opening(pid, first, other) for other in others):
        # Not to be guessed: a VM whose descriptor is taken by mistake loses acrn-dm's ring for good.
        raise SourceError(
            f"process {pid} has opened {device} more than once (descriptors {found}): "
            "which is the VM's cannot be told from outside; take_over(pid, descriptor=N) in Python takes one"
        )
    return first


def _same_opening(pid: int, one: int, other: int) -> bool:
    """Whether two descriptors of a process are duplicates of each other; no, where the kernel cannot tell."""
    try:
        return _call_through("syscall", _KCMP, pid, pid, _KCMP_FILE, one, other) == 0
    except OSError:
        return False


def _duplicate(process: int, descriptor: int, number: int) -> int:
    """The process' descriptor as one of ours, close-on-exec. Raises OSError."""
    own = _call_through("syscall", _PIDFD_GETFD, process, descriptor, 0)
    if not _is_device(os.fstat(own), number):
        os.close(own)
        raise OSError(errno.EBADF, "closed, and its number taken by another file")
    return own


def _why_not_taken(device: Path | str, error: OSError | OverflowError) -> str:
    code = errno.ESRCH if isinstance(error, OverflowError) else error.errno
    match code:
        case errno.ESRCH | errno.ENOENT | errno.EINVAL:
            return "there is no such process (any more)"
        case errno.EPERM | errno.EACCES:
            return f"its descriptor of {device} may not be taken by this user: root may, or who may ptrace the process"
        case errno.EBADF:
            return f"it closed its descriptor of {device} just now"
        case errno.ENOSYS:
            return "this kernel cannot duplicate another process' descriptor: 5.6 and newer can"
    return str(error)


def _call_through(function: str, *arguments: int) -> int:
    """Call a function of the C library that takes integers of up to 64 bits. Raises OSError.

    Python's own fcntl.ioctl takes no 64-bit address. Loaded here, ctypes costs nothing where there is no hypervisor.
    """
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), function)
    while True:
        result = int(call(*map(ctypes.c_ulong, arguments)))
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:  # which is a signal while the kernel waited; what was asked is asked again
            raise OSError(code, os.strerror(code))


def _address_of(page: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(page))
