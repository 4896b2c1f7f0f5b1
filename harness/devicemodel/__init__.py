"""Our counterpart of acrn-dm: one guest in QEMU, its RTC writes into a vRTC, and the event service beside it."""
