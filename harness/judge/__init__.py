"""The judge: compares what a guest really wrote with the events that were seen, and hands out verdicts.

It imports nothing of the service, the vRTC, the device model or the plans: two observers must not share
a mistake.
"""

from __future__ import annotations

from harness.judge.guest import GuestJudge, ItemView
from harness.judge.verdict import INCONCLUSIVE, KNOWN_DEFECT, PASS, PRODUCT_FAULT, Seen, Verdict

__all__ = [
    "INCONCLUSIVE",
    "KNOWN_DEFECT",
    "PASS",
    "PRODUCT_FAULT",
    "GuestJudge",
    "ItemView",
    "Seen",
    "Verdict",
]
