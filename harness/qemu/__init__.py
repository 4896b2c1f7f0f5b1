"""One QEMU process: arguments, accelerator, QMP, trace of port writes, death."""
