"""Machines of the project's own that stand in for a bench, so that the bench path can be walked anywhere."""
