"""Packs what runs on a host into one archive, which Python there runs with nothing installed."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import harness

_ROOT = Path(harness.__file__).resolve().parents[1]
_PACKED = ("__init__.py", "errors.py", "deadline.py", "clock_map.py", "onhost", "listener")
"""Below harness/. Nothing of these may need more than the standard library."""

_MAIN = b"""import sys

if sys.version_info < (3, 10):
    sys.exit("the tools need Python 3.10 or newer; this is %d.%d" % sys.version_info[:2])

from harness.onhost.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""
_THE_SAME_MOMENT = (1980, 1, 1, 0, 0, 0)


@functools.cache
def archive() -> bytes:
    """The whole archive; the same sources make the same bytes. Raises OSError when they cannot be read."""
    sources = {"__main__.py": _MAIN}
    for name in _PACKED:
        place = _ROOT / "harness" / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []:
            sources[path.relative_to(_ROOT).as_posix()] = path.read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as entries:
        for name, data in sorted(sources.items()):
            entry = zipfile.ZipInfo(name, _THE_SAME_MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entries.writestr(entry, data)
    return made.getvalue()
