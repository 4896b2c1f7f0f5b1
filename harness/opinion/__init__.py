"""The second opinion: what QEMU's own RTC says to every settled event, by QMP and by what the guest reads back.

Independent of the judge, the event service and the vRTCs: imports none of them. Everything is read from a run
directory.
"""
