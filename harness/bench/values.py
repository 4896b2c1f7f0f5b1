"""What stands in bench files at many places: files, programs, addresses, regular expressions, argument lists."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

SCRATCH = "{scratch}"
"""Stands in a bench file for a folder of that bench's own on this machine, which is kept between runs."""

HARNESS = Path(__file__).resolve().parents[2]
FIXED = {"python": sys.executable, "harness": str(HARNESS)}
"""Placeholders that mean the same everywhere: the Python that runs the harness, and the folder of its sources."""


class Part(BaseModel):
    """A mapping of a bench file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with each `{name}` replaced by its value; other braces stay as they are."""
    return re.sub(r"\{([a-z]+)\}", lambda found: values.get(found[1], found[0]), text)


def filled(value: str, info: ValidationInfo) -> str:
    """The text with what `{scratch}`, `{python}` and `{harness}` stand for."""
    scratch = (info.context or {}).get("scratch")
    return fill(value, FIXED if scratch is None else {**FIXED, "scratch": str(scratch)})


def existing_file(value: Path, info: ValidationInfo) -> Path:
    """The file, absolute; relative names start at the bench file's folder. One below {scratch} may come later."""
    if str(value).startswith(SCRATCH + "/"):
        return Path(filled(str(value), info))
    if unknown := re.search(r"\{[a-z]+\}", str(value)):
        raise ValueError(f"has the placeholder {unknown[0]}; known here: {SCRATCH}, at its beginning")
    path = _absolute(value, info)
    if stat.S_ISDIR(_mode(path, value)):
        raise ValueError(f"{path} is a folder; should be a file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} may not be read by this user")
    return path


def _absolute(value: Path, info: ValidationInfo) -> Path:
    directory = Path((info.context or {}).get("directory", "."))
    try:
        return (directory / value.expanduser()).absolute()
    except RuntimeError as error:  # ~somebody whom nobody knows
        raise ValueError(f"{value} cannot be read: {error}") from None


def _mode(path: Path, value: Path) -> int:
    try:
        return path.stat().st_mode  # not opened: that would wait for ever at a pipe
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{value} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def private_file(value: Path, info: ValidationInfo) -> Path:
    """A file with a secret: only its owner may read it."""
    path = existing_file(value, info)
    if path.exists() and stat.S_IMODE(_mode(path, value)) & 0o077:
        raise ValueError(f"{path} may be read by others than its owner; chmod 600 {path}")
    return path


def folder(value: Path, info: ValidationInfo) -> Path:
    """A folder on this machine, absolute; it need not be there yet."""
    path = Path(filled(str(value), info)) if str(value).startswith(SCRATCH) else _absolute(value, info)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; should be a folder")
    return path


def existing_program(value: Path, info: ValidationInfo) -> Path:
    """A program by its path, or by a bare name that is looked for beside the bench file and in PATH."""
    directory = Path((info.context or {}).get("directory", "."))
    if value.name == str(value) and not (directory / value).exists():
        found = shutil.which(value)
        if found is None:
            raise ValueError(f"no program called {value} in PATH")
        return Path(found).absolute()
    path = existing_file(value, info)
    if not os.access(path, os.X_OK):
        raise ValueError(f"{path} is not executable")
    return path


def serial_device(value: Path, info: ValidationInfo) -> Path:
    """A terminal device of this machine."""
    path = Path(filled(str(value), info))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        hint = "; is the adapter plugged in? (ls -l /dev/serial/by-id)" if isinstance(error, FileNotFoundError) else ""
        raise ValueError(f"{path}: {error.strerror}{hint}") from None
    if not stat.S_ISCHR(mode):
        raise ValueError(f"{path} is no serial device")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ValueError(f"{path} may not be read and written by this user; is he in its group (dialout)?")
    return path


def expression(value: str) -> str:
    """A regular expression, for bytes."""
    try:
        re.compile(value.encode())
    except (re.error, UnicodeEncodeError) as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


def public_key(value: str) -> str:
    """A public key as a line of known_hosts has it, without the host's name."""
    kind, data = value.split()[:2]
    try:
        blob = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ValueError(f"{data[:20]}... is not base64; should be as in `ssh-keyscan HOST`") from None
    parts, rest = [], blob
    while len(rest) >= 4 and len(rest) >= 4 + int.from_bytes(rest[:4], "big"):
        end = 4 + int.from_bytes(rest[:4], "big")
        parts.append(rest[4:end])
        rest = rest[end:]
    if rest or len(parts) < 2 or parts[0] != kind.encode():
        raise ValueError(f"is no whole key of type {kind}; should be as in `ssh-keyscan HOST`, without the name")
    return value


ExistingFile = Annotated[Path, AfterValidator(existing_file)]
PrivateFile = Annotated[Path, AfterValidator(private_file)]
ExistingProgram = Annotated[Path, AfterValidator(existing_program)]
Folder = Annotated[Path, AfterValidator(folder)]
SerialDevice = Annotated[Path, AfterValidator(serial_device)]
Expression = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(expression)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable."""

PasswordVariable = Annotated[
    Variable | None, Field(description="the name of the environment variable that has the password, or null")
]
PasswordFile = Annotated[
    PrivateFile | None,
    Field(description="the file with the password in its first line, which its owner alone may read, or null"),
]
"""Of whoever logs in, on a console or by SSH; the password itself stands in no bench."""

PublicKey = Annotated[str, Field(pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( .*)?$"), AfterValidator(public_key)]
HostPath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f]{0,1000}$")]
"""An absolute path on the host."""


def program(value: str, info: ValidationInfo) -> str:
    """A program on the host: a path, absolute because nobody knows which folder another would start at, or a name."""
    value = filled(value, info)
    if "/" in value and not value.startswith("/"):
        raise ValueError(f"{value} is no absolute path on the host; should be one, or a name in the PATH there")
    return value


def absolute(value: str) -> str:
    """A path on the host that is one from everywhere."""
    if not value.startswith("/"):
        raise ValueError(f"{value} is no absolute path on the host; should be one, such as /root/launch.sh")
    return value


Program = Annotated[str, Field(pattern=r"^[!-~](?:[ -~]{0,998}[!-~])?$"), AfterValidator(program)]
"""A program on the host: a path, or a name in its PATH."""

Argument = Annotated[str, Field(pattern=r"^[^\x00]{0,4000}$"), AfterValidator(filled)]
Command = Annotated[tuple[Argument, ...], Field(min_length=1)]
"""A program and its arguments, one by one: no shell reads them."""

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:%-]{1,253}$")]
"""A host's name, its IP address, or an alias of ssh_config."""

User = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
CoolDown = Annotated[
    float,
    Field(ge=0, le=600, description="a number of seconds from 0 to 600: how long it stays off before it goes on again"),
]
