"""Programs that measure: the figures of a machine, its load beside them. Nothing here fails on a busy machine."""
