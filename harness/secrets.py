"""Secrets: read from the environment or from a private file, and kept out of whatever this process writes.

One `MASKER` for the process knows every secret that was read. From the first one on, log records, the errors of
`harness.errors` and tracebacks that end a thread or the process pass through it; reports and run.json ask it.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shlex
import stat
import sys
import threading
import traceback
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from harness.errors import BenchError, ConfigurationError

MASK = "********"
SHORTEST = 4
"""Characters: what is shorter stands in every other line, and to mask it would make all of them unreadable."""

_LONGEST_FILE = 64 * 1024
_log = logging.getLogger(__name__)
Text = TypeVar("Text", str, bytes)
Value = TypeVar("Value")


class Masker:
    """Replaces secrets, also as they look quoted for a shell, in JSON, in a URL, in base64.

    secrets: those that are known, as bytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Know none any more: for tests, each of which stands for a process of its own."""
        self.secrets: tuple[bytes, ...] = ()
        self._forms: set[str] = set()
        self._text: re.Pattern[str] | None = None
        self._bytes: re.Pattern[bytes] | None = None

    def register(self, secret: str) -> None:
        """Know one more secret. One of fewer than 4 characters is not masked, and the log says so."""
        if not secret:
            return
        if len(secret) < SHORTEST:
            _log.warning("a secret has fewer than %d characters: too short to be masked in logs and reports", SHORTEST)
            return
        with self._lock:
            raw = secret.encode("utf-8", "surrogateescape")
            if raw in self.secrets:
                return
            self.secrets += (raw,)
            self._forms |= _forms(secret)
            # The longest first: one secret may be the beginning of another.
            alternatives = sorted(self._forms, key=len, reverse=True)
            self._text = re.compile("|".join(re.escape(form) for form in alternatives))
            encoded = [form.encode("utf-8", "surrogateescape") for form in alternatives]
            self._bytes = re.compile(b"|".join(re.escape(form) for form in encoded))

    @property
    def active(self) -> bool:
        """Whether there is anything to mask."""
        return self._text is not None

    def mask(self, text: Text) -> Text:
        """The text without secrets."""
        if isinstance(text, bytes):
            return text if self._bytes is None else self._bytes.sub(MASK.encode(), text)
        return text if self._text is None else self._text.sub(MASK, text)

    def mask_value(self, value: Value) -> Value:
        """Data as JSON has it, without secrets in any of its texts."""
        if self._text is None:
            return value
        masked: object = value
        if isinstance(value, str):
            masked = self.mask(value)
        elif isinstance(value, dict):
            masked = {self.mask_value(key): self.mask_value(inner) for key, inner in value.items()}
        elif isinstance(value, list | tuple):
            masked = [self.mask_value(inner) for inner in value]
        return masked  # type: ignore[return-value]


def _forms(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogateescape")
    forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= {shlex.quote(secret), urllib.parse.quote(raw, safe=""), urllib.parse.quote_plus(raw)}
    forms |= {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
    return forms


MASKER = Masker()
"""The one of this process."""


def read_secret(env: str | None, file: Path | None) -> str | None:
    """The secret in an environment variable or in the first line of a file; None where neither is named.

    It is masked from then on. Raises ConfigurationError for a variable that is not set, and for a file that cannot be
    read or that others than its owner may read.
    """
    if env is not None:
        if env not in os.environ:
            raise ConfigurationError(
                f"the environment variable {env}, which is to have a secret, is not set",
                hint=f"set it where the run is started: read -rs {env}; export {env}",
            )
        secret = os.environ[env]
    elif file is not None:
        secret = _first_line(file)
    else:
        return None
    keep_secret(secret)
    return secret


def keep_secret(secret: str) -> None:
    """Have a secret masked wherever this process writes, from now on."""
    MASKER.register(secret)
    if MASKER.active:
        _guard_process()


def _first_line(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise ConfigurationError(f"{file} holds a secret and others may read it", hint=f"chmod 600 {file}")
            return stream.readline(_LONGEST_FILE).decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"cannot read the secret in {file}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        # Its own message and its object have the secret.
        raise ConfigurationError(f"the secret in {file} is not UTF-8 text") from None


# -- the process ---------------------------------------------------------------------------------------------------


class MaskingFilter(logging.Filter):
    """Takes the secrets out of a record; whatever handler writes it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """The record is changed, and passes."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return True  # wrong arguments: logging itself reports them when a handler formats it
        masked = MASKER.mask(message)
        if masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            # What a formatter finds here it does not format again.
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            masked = MASKER.mask(text)
            if masked != text:
                record.exc_text, record.exc_info = masked, None
        if record.stack_info:
            record.stack_info = MASKER.mask(record.stack_info)
        return True


def _guard_process() -> None:
    """Once: everything that this process says of itself goes through the masker."""
    if BenchError.masked == MASKER.mask:
        return
    BenchError.masked = MASKER.mask
    make, masking = logging.getLogRecordFactory(), MaskingFilter()

    def record(*arguments: object, **keywords: object) -> logging.LogRecord:
        made = make(*arguments, **keywords)
        masking.filter(made)
        return made

    # By the factory: a filter of a logger does not see the records of loggers below it.
    logging.setLogRecordFactory(record)
    usual, usual_thread = sys.excepthook, threading.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        masked = MASKER.mask(text)
        if masked == text:
            usual(kind, error, trace)
        else:
            sys.stderr.write(masked)

    def thread_excepthook(arguments: threading.ExceptHookArgs) -> None:
        value = arguments.exc_value
        if value is not None and MASKER.mask(str(value)) != str(value):
            text = "".join(traceback.format_exception(arguments.exc_type, value, arguments.exc_traceback))
            sys.stderr.write(MASKER.mask(text))
        else:
            usual_thread(arguments)

    sys.excepthook, threading.excepthook = excepthook, thread_excepthook
