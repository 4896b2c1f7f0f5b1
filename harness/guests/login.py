"""Logs in on a guest's serial console, and has a shell of root there carry out what is asked; no secret is logged."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.bench import LOGIN_PROMPT, PASSWORD_PROMPT, SHELL_PROMPT
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests.console import Console, ConsoleTimeout
from harness.secrets import read_secret as read_password

__all__ = ["Login", "Shell", "read_password"]

_REFUSED = rb"(?P<refused>[^\r\n]*(?:incorrect|denied|failure|not allowed)[^\r\n]*[\r\n])"
_SILENCE = 10.0
"""Seconds without a prompt after which a line end is sent: it may have been lost in other output."""

_SOON = 2.0
"""The same where no user has been named yet; twice as long each time."""

_TRIES = 5
ENDED = re.compile(rb"@rtc-ended:(?P<status>\d+)@")
"""What a shell says once a command has ended that it had started."""

_SUDO = "rtc-sudo-asks"
TOOLS = (
    *("base64", "openssl", "python3", "gzip", "head", "dd", "od", "hexdump"),
    *("sha256sum", "md5sum", "cksum", "id", "uname", "chmod", "rm"),
)
"""Programs of a guest's that are of use: its own, or its busybox's."""

# Where a busybox has the program its name is not in the path for, a function stands in (127: it has none such).
_PREPARE = (
    "stty -echo 2>/dev/null || busybox stty -echo 2>/dev/null; PS1= PS2=; unset PROMPT_COMMAND; "
    f"for p in {' '.join(TOOLS)}; do command -v $p >/dev/null 2>&1 && continue; "
    "busybox $p --help >/dev/null 2>&1; "
    '[ $? = 127 ] || eval "$p() { busybox $p \\"\\$@\\"; }"; done'
)
_WHICH = (
    f"for p in {' '.join(TOOLS)}; do command -v $p >/dev/null 2>&1 && printf '%s ' $p; done; "
    "python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && printf 'python3.8 '; uname -m"
)


@dataclass(frozen=True)
class Login:
    """Who logs in, and what the guest asks him by; prompts are regular expressions. password: None: none is asked."""

    user: str = "root"
    password: str | None = field(default=None, repr=False)
    login_prompt: str = LOGIN_PROMPT
    password_prompt: str = PASSWORD_PROMPT
    shell_prompt: str = SHELL_PROMPT


class Shell:
    """A shell of root's on a console, without echo or prompt. One thread at a time.

    All methods raise as Console.wait_for. tools: those of TOOLS that the guest has, `python3.8` where its Python is as
    new, and its machine's name (`x86_64`).
    """

    def __init__(self, console: Console, login: Login, deadline: Deadline, *, logged_in: bool = False) -> None:
        """Logs in; logged_in: there is a shell on the console already (SSH), and at most sudo asks for the password.

        Raises ConfigurationError where the guest refuses the user, or he is not and cannot become root.
        """
        self._console = console
        self._login = login
        self._asked = 0
        self._depth = 1
        if login.password:
            console.mask(login.password.encode())
        if not logged_in:
            self._log_in(deadline)
        else:
            while not self._is_shell(deadline):
                pass
        self._become_root(deadline)
        self.tools = frozenset(self.ask(_WHICH, deadline).split())

    def ask(self, command: str, deadline: Deadline, *, data: bytes = b"", patience: float = _SILENCE) -> str:
        """What the command prints, as one line; `data` is sent after it, for it to read.

        It may run more than once: other output on the console can tear what it prints. Raises InfrastructureError
        where no answer came whole.
        """
        for _ in range(_TRIES):
            self._asked += 1
            # In two parts, so that an echo of it is no answer; the second line tells that the first one came torn.
            line = f"echo @'rtc'{self._asked}:$( {command})@; echo @'rtc'{self._asked}.@\n"
            self._send(line.encode() + data, deadline)
            pattern = re.compile(rb"@rtc%d:(?P<answer>[^@\r\n]*)@|@rtc%d\.@" % (self._asked, self._asked))
            try:
                found = self._console.wait_for(pattern, f"an answer to {command!r}", deadline.within(patience))
            except ConsoleTimeout:
                if deadline.expired:
                    raise
                self._send(b"\n" * (len(data) + 1), deadline)  # what was lost of the data is waited for still
                continue
            if found["answer"] is not None:
                return found["answer"].decode("utf-8", "replace").strip()
        raise InfrastructureError(
            f"{self._console.name}: its shell answered nothing to {command!r}, asked {_TRIES} times",
            last_lines=self._console.last_lines,
            log=self._console.log_path,
        )

    def start(self, command: str, deadline: Deadline) -> None:
        """Has a command take the console over; when it ends the shell says so (ENDED, with its status)."""
        self._send(f"{command}; echo @'rtc-ended':$?@\n".encode(), deadline)

    def log_out(self, deadline: Deadline) -> None:
        """Ends the shell, and the user's that root's was started from."""
        self._send(b"exit\n" * self._depth, deadline)

    def _send(self, data: bytes, deadline: Deadline) -> None:
        self._console.send(data, "the guest to take input", deadline)

    # -- from the first prompt to root -------------------------------------------------------------------

    def _log_in(self, deadline: Deadline) -> None:
        login = self._login
        prompts = {"login": login.login_prompt, "password": login.password_prompt, "shell": login.shell_prompt}
        named = b"|".join(b"(?P<%s>%s)" % (name.encode(), text.encode()) for name, text in prompts.items())
        pattern = re.compile(_REFUSED + b"|" + named)
        named_user, patience = False, _SOON
        while True:
            # Whoever has named the user may be slow to ask him for more; else a prompt may have been missed in noise.
            until = deadline.within(_SILENCE if named_user else patience)
            try:
                found = self._console.wait_for(pattern, "a prompt to log in at", until)
            except ConsoleTimeout:
                if deadline.expired:
                    raise
                named_user, patience = False, min(2 * patience, _SILENCE)
                self._send(b"\n", deadline)
                continue
            if found["login"] is not None:
                named_user = True
                self._send(login.user.encode() + b"\n", deadline)
            elif found["password"] is not None:
                # Never where it would be echoed: only at a prompt for it, and after the user's name.
                self._send((login.password or "" if named_user else "").encode() + b"\n", deadline)
            elif found["shell"] is not None:
                if self._is_shell(deadline):
                    return
            elif named_user:
                said = found["refused"].decode("utf-8", "replace").strip()
                raise ConfigurationError(
                    f"{self._console.name} refused the login of {login.user}: {said}",
                    hint="see the guest's `login` in the bench file: user, password_env or password_file",
                    last_lines=self._console.last_lines,
                    log=self._console.log_path,
                )

    def _is_shell(self, deadline: Deadline) -> bool:
        """Whether what looked like a prompt was one: then the shell is a plain one now, and says nothing unasked."""
        self._send(f"exec sh\n{_PREPARE}; echo @'rtc-shell'@\n".encode(), deadline)
        try:
            self._console.wait_for(re.compile(rb"@rtc-shell@"), "a shell", deadline.within(_SILENCE))
        except ConsoleTimeout:
            if deadline.expired:
                raise
            return False
        return True

    def _become_root(self, deadline: Deadline) -> None:
        if self.ask("id -u", deadline) == "0":
            return
        self._send(f"sudo -p {_SUDO} sh || echo @'rtc-no'@\n".encode(), deadline)
        pattern = re.compile(rb"@rtc-no@|(?P<asks>%s)|%s" % (_SUDO.encode(), SHELL_PROMPT.encode()))
        if self._console.wait_for(pattern, "sudo", deadline.within(_SILENCE))["asks"] is not None:
            self._send((self._login.password or "").encode() + b"\n", deadline)
        self._depth = 2
        if not self._is_shell(deadline) or self.ask("id -u", deadline) != "0":
            self._send(b"exit\n", deadline)
            raise ConfigurationError(
                f"{self._login.user} is not root in {self._console.name}, and sudo did not make him",
                last_lines=self._console.last_lines,
                log=self._console.log_path,
            )
