"""An NTP client is at work in the guest, and its kernel writes the RTC on its own; needs a guest with Linux."""

from __future__ import annotations

import pytest

from fixtures import plan_sets_linux
from fixtures.plans import rtc_plans
from fixtures.types import Update, Verdict, Vrtc, expect_events, written_registers

pytestmark = [pytest.mark.qemu]


def expect_background(verdict: Verdict, least: int, most: int | None = None) -> None:
    """Nobody but the kernel wrote, and each of its so many updates has been judged like any other."""
    assert verdict.role == "background"
    expect_events(verdict, least, most)


@rtc_plans(plan_sets_linux.ntp("pc"))
def test_kernel_on_pc_writes_what_an_ntp_client_found(update: Update) -> None:
    """Some seconds after the client is content, halted, the century left alone."""
    verdict = update.judged()
    expect_background(verdict, 1)
    assert 0x32 not in written_registers(verdict)


@pytest.mark.parametrize("vrtc", ["dm"], indirect=True)
@rtc_plans(plan_sets_linux.ntp("q35"))
def test_kernel_on_q35_writes_what_an_ntp_client_found(update: Update) -> None:
    """Halted as well, century included."""
    verdict = update.judged()
    expect_background(verdict, 1)
    assert 0x32 in written_registers(verdict)


@pytest.mark.soak
@rtc_plans(plan_sets_linux.ntp("pc", writes=2))
def test_kernel_writes_again_after_eleven_minutes(update: Update, vrtc: Vrtc) -> None:
    """The RTC is hardly wrong by then. Where not even by a second, the device model's vRTC has nothing to say."""
    verdict = update.judged()
    expect_background(verdict, 1 if vrtc == "dm" else 2, most=2)
    assert sum(index == 0x0B and value & 0x80 != 0 for _, index, value, _ in verdict.writes) == 2, "it halted twice"
