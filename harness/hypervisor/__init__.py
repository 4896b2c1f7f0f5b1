"""Our counterpart of ACRN's hypervisor, as far as RTCs go: one process with the HV vRTC of every guest of a run."""
