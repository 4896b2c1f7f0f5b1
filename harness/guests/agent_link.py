"""Request and answer between host and agent over a console: never lost for noise, never carried out twice.

A command goes out under the next sequence number. The agent answers a repeated number from memory, so the
host may send the same line again when an answer is damaged or overdue: nothing is written twice. A command
damaged on its way is answered `no damaged` under number 0 and has no effect.
"""

from __future__ import annotations

import re
import secrets

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.console import Console, ConsoleTimeout
from harness.guests.frames import Answer, Part, decode_parts, encode_command

_FRAME_LINE = re.compile(rb"@<[^\r\n]*[\r\n]")
_REST_OF_A_TORN_ANSWER = 0.1
_TRIES = 100


class AgentRefused(InfrastructureError):
    """The agent understood and refused; nothing was done. `reason` is its one-word name for why."""

    hint = "the agent refuses what it cannot prove to be safe; see the reasons in harness/guests/agent.c"

    def __init__(self, reason: str, problem: str, **details: object) -> None:
        super().__init__(problem, **details)  # type: ignore[arg-type]
        self.reason = reason


class AgentRestarted(InfrastructureError):
    """The agent announced itself anew in the middle of a command: the guest was restarted under it."""


class AgentLink:
    """One agent at the other end of a console. One command at a time; not for several threads at once.

    patience: seconds without an answer after which the command is sent again (each time twice as many).
    """

    def __init__(self, console: Console, *, patience: float = 2.0) -> None:
        self._console = console
        self._patience = patience
        self._sequence = secrets.randbelow(1 << 30)  # so that an earlier host's last command is never ours
        self._parts: list[Part] = []

    def wait_ready(self, deadline: Deadline) -> None:
        """Waits for the agent's ready line. Raises as Console.wait_for."""
        awaited = "the agent's ready line"
        while not self._is_ready(self._next_part(awaited, deadline)):
            pass

    def request(self, payload: str, deadline: Deadline, *, busy: float = 0.0) -> str:
        """Sends a command and returns the payload of its answer without the leading "ok".

        busy: seconds the agent is known to need before it can answer. Raises AgentRefused, AgentRestarted
        (except to `hello`, which an agent may answer while its ready lines are still coming), and as
        Console.wait_for.
        """
        name = payload.split(" ", 1)[0]
        awaited = f"the agent's answer to {name!r}"
        self._sequence += 1
        answer = Answer(self._sequence)
        line = encode_command(self._sequence, payload)
        patience = busy + self._patience
        self._parts.clear()
        for _ in range(_TRIES):
            self._console.send(line, awaited, deadline)
            self._collect(answer, awaited, deadline, patience, restart_is_error=name != "hello")
            if answer.payload is not None:
                break
            patience = min(2 * patience, busy + 30.0)
        else:
            raise self._error(f"{_TRIES} answers to {name!r} were damaged", awaited)
        verdict, _, rest = answer.payload.partition(" ")
        if verdict == "ok":
            return rest
        reason, _, words = rest.partition(" ")
        raise AgentRefused(
            reason,
            f"the agent of {self._console.name} refused {name!r}: {reason}: {words}",
            last_lines=self._console.last_lines,
            log=self._console.log_path,
        )

    def _collect(
        self, answer: Answer, awaited: str, deadline: Deadline, patience: float, *, restart_is_error: bool
    ) -> None:
        """Takes parts until the answer is whole, or it is time to send the command again."""
        until = deadline.within(patience)
        while answer.payload is None:
            try:
                part = self._next_part(awaited, until)
            except ConsoleTimeout:
                if deadline.expired:
                    raise
                return
            if part is None:  # a torn line: let the rest of the answer come, then ask for all of it again
                until = until.within(_REST_OF_A_TORN_ANSWER)
            elif part.sequence == 0 and part.payload == "no damaged":
                return
            elif part.sequence == 0 and part.payload.startswith("no sequence"):
                raise self._error(f"someone else is using the agent ({part.payload})", awaited)
            elif self._is_ready(part) and restart_is_error:
                raise AgentRestarted(
                    f"{self._console.name} was restarted while a command was under way",
                    awaited=awaited,
                    last_lines=self._console.last_lines,
                    log=self._console.log_path,
                )
            else:
                answer.add(part)

    def _next_part(self, awaited: str, deadline: Deadline) -> Part | None:
        """The next whole frame, or None for a line that held a damaged one."""
        while not self._parts:
            line = self._console.wait_for(_FRAME_LINE, awaited, deadline)[0]
            self._parts, damaged = decode_parts(line)
            if damaged:
                return None
        return self._parts.pop(0)

    def _error(self, problem: str, awaited: str) -> InfrastructureError:
        console = self._console
        return InfrastructureError(
            f"{console.name}: {problem}", awaited=awaited, last_lines=console.last_lines, log=console.log_path
        )

    @staticmethod
    def _is_ready(part: Part | None) -> bool:
        return part is not None and part.sequence == 0 and part.payload.startswith("ready")
