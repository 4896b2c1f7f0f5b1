"""The tests of the harness itself: they need no guest unless they say so."""
