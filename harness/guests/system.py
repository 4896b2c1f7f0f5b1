"""A guest with a system of the user's: the agent is brought into it, and it is given back as it was found."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Literal

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.agent_link import AgentLink, AgentRefused
from harness.guests.bring import Place, find_place, push
from harness.guests.channel import Channel
from harness.guests.console import Console
from harness.guests.linux import LinuxGuest
from harness.guests.login import ENDED, Login, Shell
from harness.guests.variants import ELSEWHERE, Agents, Variant

log = logging.getLogger(__name__)

_READY = re.compile(rb"@<0\.1/1 ready[^\r\n]*[\r\n]|" + ENDED.pattern)
_STARTS = {"c": "{path}", "python": "python3 -I -B {path}", "shell": "sh {path}"}


class SystemGuest(LinuxGuest):
    """Logs in as the bench says, brings an agent in and starts it as root; then it is a Linux guest like others.

    agent: the programs there are, or the compiled one alone. variant: which of them; `auto`: the first of C, Python and
    shell that the guest can run and that finds a way to the RTC's ports. by_ssh: opens a terminal with a shell in the
    guest, where nobody has to log in; the agent speaks there, and the console is only watched. logged_in: the console
    is such a terminal itself. The nonce goes in as the agent's argument: over this console only this guest can have it.
    """

    def __init__(
        self,
        console: Console,
        *,
        nonce: str,
        hypervisor: Sequence[str],
        agent: bytes | Agents,
        login: Login,
        variant: Variant | Literal["auto"] = "auto",
        by_ssh: Callable[[Deadline], Channel] | None = None,
        logged_in: bool = False,
    ) -> None:
        super().__init__(console, nonce=nonce, hypervisor=hypervisor)
        self._agents = agent if isinstance(agent, Agents) else Agents({"c": agent})
        self._login = login
        self._wanted = variant
        self._by_ssh = by_ssh
        self._logged_in = logged_in or by_ssh is not None
        self._own_console = console
        self._shell: Shell | None = None
        self._started = False

    def boot(self, deadline: Deadline) -> None:
        """Waits for the login prompt, logs in, brings an agent in, and has it prove where it is.

        Raises ConfigurationError where the guest refuses the login, InfrastructureError where it can run no agent, and
        as LinuxGuest.greet; the guest is logged out of then.
        """
        with self._one_command:
            if self._by_ssh is not None:
                self._speak_over(self._by_ssh(deadline))
            self._shell = Shell(self._console, self._login, deadline, logged_in=self._logged_in)
        try:
            self._start_one(self._shell, deadline)
        except (AgentRefused, NoAgent):
            self.leave(deadline)
            raise

    def leave(self, deadline: Deadline) -> None:
        """Gives the guest back as it was found: RTC, time daemons, console; the agent is gone. Raises as `command`."""
        shell, self._shell = self._shell, None
        if self._started:
            self._end_agent(deadline)
        if shell is not None:
            shell.log_out(deadline)

    def check(self) -> None:
        """Reads what the consoles have, without waiting. Raises as Console.check."""
        super().check()
        if self._own_console is not self._console:
            with self._one_command:
                self._own_console.check()

    def close(self) -> None:
        """Closes both consoles; a wait in another thread ends with ConsoleClosed. Idempotent."""
        try:
            super().close()
        finally:
            if self._own_console is not self._console:
                self._own_console.close()

    def _speak_over(self, channel: Channel) -> None:
        """The agent's console is another one than the guest's own, with a log of its own beside it."""
        path = self._own_console.log_path.with_name("agent-console.log")
        self._console = Console(channel, path, name=self._own_console.name)
        self._link = AgentLink(self._console)

    def _start_one(self, shell: Shell, deadline: Deadline) -> None:
        """The first agent of those wanted that is not refused a way to the ports. Raises as `boot`."""
        with self._one_command:
            place = find_place(shell, deadline)
        variants = self._agents.choose(self._wanted, _means(shell, place))
        if not variants:
            raise NoAgent(
                f"{self.name} can run no agent: it has no place to start a program from, no Python 3.8 and no dd",
                hint="the guest needs one of them; see docs/guests.md",
            )
        refusal: InfrastructureError | None = None
        for variant in variants:
            try:
                self._start(shell, variant, place, deadline)
                self.greet(deadline)
                return
            except AgentRefused as error:
                refusal = refusal or error
                if error.reason not in ELSEWHERE:
                    raise
                self._end_agent(deadline)
            except NoAgent as error:
                refusal = refusal or error
            log.info("%s: another agent than the %s one: %s", self.name, variant, refusal.problem)
        assert refusal is not None
        raise refusal

    def _start(self, shell: Shell, variant: Variant, place: Place, deadline: Deadline) -> None:
        """Brings it in, and waits for its first word. Raises NoAgent where it ends instead."""
        program = self._agents.programs.get(variant)
        if program is None:
            raise NoAgent(f"there is no {variant} agent to be brought into {self.name}")
        with self._one_command:
            path = push(shell, program, deadline, place)
            start = f"{_STARTS[variant].format(path=path)} rtc.nonce={self._nonce}"
            shell.start(f"{start}; set -- $?; rm -f {path}; (exit $1)", deadline)
            found = self._console.wait_for(_READY, f"the ready line of the {variant} agent", deadline)
            if found["status"] is None:
                self._started = True
                return
        status = int(found["status"])
        raise NoAgent(
            f"the {variant} agent of {self.name} ended as soon as it was started, with status {status}",
            hint={126: "the guest does not let it be started", 127: "the guest has nothing to start it with"}.get(
                status
            ),
            last_lines=self._console.last_lines,
            log=self._console.log_path,
        )

    def _end_agent(self, deadline: Deadline) -> None:
        self._started = False
        self.command("bye", deadline)
        with self._one_command:
            self._console.wait_for(ENDED, "the agent's end", deadline)


class NoAgent(InfrastructureError):
    """The guest can run none of the agents that were to be tried."""


def _means(shell: Shell, place: Place) -> list[str]:
    """What `Agents.choose` wants to know."""
    tools = list(shell.tools)
    if place.executable and "x86_64" in shell.tools:
        tools.append("exec-x86_64")
    if "python3.8" not in shell.tools and "python3" in tools:
        tools.remove("python3")
    return tools
