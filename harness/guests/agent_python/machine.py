"""What the processor and the kernel say of where we are, the way to the RTC's ports, and the guest's own programs."""

from __future__ import annotations

import mmap
import os
import platform
import struct
import subprocess
import sys
from typing import Any

try:
    import ctypes
except ImportError:  # a Python cut down to little; devices of the kernel's may do
    ctypes = None  # type: ignore[assignment]

PORT = 0x70
CPUID_DEVICE, PORT_DEVICE, LOCKDOWN = "/dev/cpu/0/cpuid", "/dev/port", "/sys/kernel/security/lockdown"
LOCKED = "the kernel is locked down and lets nobody touch a port (see lockdown= and Secure Boot)"
_PROGRAMS = {"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}


class Refused(Exception):
    """Why a command is not carried out: `REASON words`."""


def code(instructions: str, kind: Any) -> Any:
    """A function made of machine code. Raises OSError where the system allows none."""
    if platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        raise OSError("no 64-bit x86")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(instructions))
    function = kind(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page
    return function


def cpuid(leaf: int) -> tuple[int, ...]:
    """EAX, EBX, ECX and EDX. Raises Refused where the processor cannot be asked."""
    try:
        # push rbx; mov eax,edi; xor ecx,ecx; cpuid; eax, ebx, ecx, edx to [rsi]; pop rbx; ret
        ask = code("5389f831c90fa28906895e04894e0889560c5bc3", ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p))
        answer = (ctypes.c_uint32 * 4)()
        ask(leaf, ctypes.addressof(answer))
        return tuple(answer)
    except (OSError, ValueError, AttributeError):
        pass
    try:
        device = os.open(CPUID_DEVICE, os.O_RDONLY)
        try:
            return struct.unpack("<4I", os.pread(device, 16, leaf))
        finally:
            os.close(device)
    except (OSError, struct.error) as error:
        raise Refused(f"cpuid the processor cannot be asked: {error}") from error


def whereabouts() -> tuple[str, bool]:
    """The hypervisor's signature ("": none), and whether this is ACRN's Service VM."""
    if not cpuid(1)[2] & 1 << 31:
        return "", False
    signature = struct.pack("<3I", *cpuid(0x40000000)[1:]).rstrip(b"\0").decode("latin-1")
    return signature, signature == "ACRNACRNACRN" and bool(cpuid(0x40000001)[0] & 1)


class Instructions:
    """The ports by the processor's own instructions. Raises OSError where the kernel gives no right to them."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        number, byte = ctypes.c_int, ctypes.c_uint8
        # mov eax,edi; out 0x70,al; mov eax,esi; out 0x71,al; ret   and   mov eax,edi; out 0x70,al; in al,0x71; ret
        self.write = code("89f8e67089f0e671c3", ctypes.CFUNCTYPE(None, number, number))
        self.read = code("89f8e67031c0e471c3", ctypes.CFUNCTYPE(byte, number))
        if library.ioperm(ctypes.c_ulong(PORT), ctypes.c_ulong(2), 1):
            raise OSError(ctypes.get_errno(), "ioperm: " + os.strerror(ctypes.get_errno()))


class PortDevice:
    """The ports by a device of the kernel's, a byte at a time. Raises OSError where there is none."""

    def __init__(self) -> None:
        self.device = os.open(PORT_DEVICE, os.O_RDWR | os.O_CLOEXEC)

    def write(self, index: int, value: int) -> None:
        """Two bytes to two ports, by one call."""
        os.pwrite(self.device, bytes((index, value)), PORT)

    def read(self, index: int) -> int:
        """What the register holds."""
        os.pwrite(self.device, bytes((index,)), PORT)
        return os.pread(self.device, 1, PORT + 1)[0]


def open_ports() -> Any:
    """A way to the ports. Raises Refused."""
    if os.geteuid():
        raise Refused(f"root the agent runs as user {os.geteuid()}, and only root may touch a port")
    problems = []
    for way in (Instructions, PortDevice):
        try:
            return way()
        except (OSError, AttributeError, ValueError) as error:
            problems.append(str(error).replace("*", "").replace("@", ""))
    state = text_of(LOCKDOWN)
    raise Refused(f"lockdown {LOCKED}" if state and "[none]" not in state else "ports " + "; ".join(problems))


def text_of(path: str) -> str:
    """What a file says; "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write_to(path: str, text: str) -> bool:
    """Whether it could be written."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return False
    return True


def names_in(path: str) -> list[str]:
    """The entries of a folder; none where there is none."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def run_program(*words: str, limit: float = 20.0) -> tuple[int, str]:
    """Exit status (127: there is none, -1: it hung) and output of a program of the guest's."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            env=_PROGRAMS,
            check=False,
        )
    except OSError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired as error:
        return -1, (error.stdout or b"").decode("utf-8", "replace")
    return done.returncode, done.stdout.decode("utf-8", "replace")


def same_file(one: str, other: str) -> bool:
    """Whether both are there and one file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def token(text: str) -> str:
    """Free text as one word: what could be taken for framing or for a space becomes %XX."""
    data = text.encode("utf-8", "replace")
    plain = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.,:/+")
    return "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in data)
