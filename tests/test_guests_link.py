"""Request and answer over a console: noise costs a repetition, never a second write."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.agent_link import AgentLink, AgentRefused, AgentRestarted
from harness.guests.console import ConsoleTimeout
from tests.guests_support import PythonAgent, Spoil, console_pair

KERNEL_LINE = b"[    4.121618] clocksource: timekeeping watchdog\r\n"


def sometimes(chance: float, seed: int) -> Spoil:
    """Alters a byte of a line, cuts it in two by a kernel message, or loses it, now and then."""
    dice = random.Random(seed)

    def spoil(line: bytes) -> bytes:
        if dice.random() >= chance:
            return line
        where = dice.randrange(len(line) - 2)
        return dice.choice(
            [
                line[:where] + KERNEL_LINE + line[where:],
                line[:where] + bytes([line[where] ^ 1]) + line[where + 1 :],
                line[:where] + line[where + 1 :],
                b"",
            ]
        )

    return spoil


def test_an_answer_in_many_parts_comes_back_whole(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        agent = PythonAgent(end)
        agent.start()
        link = AgentLink(console)
        assert link.request("run " + "w0a26 " * 100 + "end", Deadline(20)).endswith("w0a26 end")
        assert len(agent.carried_out) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_noisy_console_repeats_answers_but_no_command_is_carried_out_twice(tmp_path: Path, seed: int) -> None:
    with console_pair(tmp_path) as (console, end):
        agent = PythonAgent(end, spoil_out=sometimes(0.08, seed))
        agent.start()
        link = AgentLink(console, patience=0.05)
        commands = [f"run {number} " + "w0a26 " * 8 for number in range(20)]
        answers = [link.request(command, Deadline(30)) for command in commands]
        assert answers == commands
        assert agent.carried_out == commands


def test_a_command_damaged_on_its_way_is_sent_again(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        agent = PythonAgent(end, spoil_in=sometimes(0.4, seed=1))
        agent.start()
        link = AgentLink(console, patience=0.05)
        commands = [f"run {number}" for number in range(20)]
        assert [link.request(command, Deadline(30)) for command in commands] == commands
        assert agent.carried_out == commands


def test_a_refusal_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        agent = PythonAgent(end)
        agent.answers["run"] = "no index 0x38 is not one of the RTC's own bytes"
        agent.start()
        with pytest.raises(AgentRefused, match="0x38") as caught:
            AgentLink(console).request("run w3801", Deadline(20))
        assert caught.value.reason == "index"


def test_a_guest_that_starts_anew_in_mid_command_is_told_at_once(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        PythonAgent(end).say(0, "ready agent=1")
        with pytest.raises(AgentRestarted):
            AgentLink(console).request("run w0001", Deadline(20))


def test_an_agent_that_never_answers_well_ends_the_request(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        PythonAgent(end, spoil_out=lambda line: line.replace(b"*", b"x")).start()
        with pytest.raises(InfrastructureError, match=r"damaged|did not come"):
            AgentLink(console, patience=0.001).request("run w0001", Deadline(0.5))


def test_an_agent_that_says_nothing_is_a_timeout_that_names_the_command(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, _end), pytest.raises(ConsoleTimeout, match="'hwclock'"):
        AgentLink(console, patience=0.01).request("hwclock", Deadline(0.1))
