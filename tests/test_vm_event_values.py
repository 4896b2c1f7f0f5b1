"""The service's values: as good as frozen dataclasses, without what those cost a running service."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, VmEvent, VmEventType
from harness.vm_event.values import Value
from harness.vm_event.wire import Garbage

VALUES: list[Value] = [
    RtcChange(last_time=-1, delta_time=5),
    SettledRtcChange(last_time=None, new_time=5, delta_time=None, raw_events=None, estimated=True),
    VmEvent(type=VmEventType.POWER_OFF, source="hv", vm="vm1"),
    Garbage(data=b"?", reason="no JSON object"),
]
KINDS = [type(value).__name__ for value in VALUES]


@pytest.mark.parametrize("value", VALUES, ids=KINDS)
def test_a_copy_is_equal_and_has_the_same_hash(value: Value) -> None:
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert hash(other) == hash(value)
        assert repr(other) == repr(value)


@pytest.mark.parametrize("value", VALUES, ids=KINDS)
def test_a_value_does_not_change(value: Value) -> None:
    before = repr(value)
    for name in (*value.__slots__, "another"):
        with pytest.raises(AttributeError, match="does not change"):
            setattr(value, name, 1)
        with pytest.raises(AttributeError, match="does not change"):
            delattr(value, name)
    assert repr(value) == before


def test_values_differ_by_each_field_and_by_type() -> None:
    event = SettledRtcChange(1, 2, 1, 7)

    assert event != SettledRtcChange(1, 2, 1, 7, overrun=1)
    assert event != SettledRtcChange(1, 2, 1, 7, vm="another")
    assert event != (1, 2, 1, 7, False, False, 0, "dm", "vm")
    assert len({event, SettledRtcChange(1, 2, 1, 7), SettledRtcChange(1, 2, 1, 8)}) == 2


def test_a_value_shows_its_fields_by_name_and_can_be_matched() -> None:
    assert repr(RtcChange(1, delta_time=2)) == "RtcChange(last_time=1, delta_time=2)"
    match VALUES[0]:
        case RtcChange(last_time, delta_time=5):
            assert last_time == -1
        case _:
            pytest.fail("did not match")


def test_what_a_foreign_service_does_not_tell_is_null() -> None:
    unknown = SettledRtcChange(None, None, None, None, source="monitor", vm="vm0")

    assert unknown.as_json() == {
        "vm_event": 0,
        "last_time": None,
        "new_time": None,
        "delta_time": None,
        "raw_events": None,
        "source": "monitor",
        "vm": "vm0",
    }


def test_importing_the_package_loads_nothing_that_is_dear() -> None:
    program = "import sys, harness.vm_event; print(*{'dataclasses', 'inspect', 'asyncio'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == []
