"""Packs what runs on a host into one archive, which Python there runs with nothing installed."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import harness
from harness.pyz import packed

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


@functools.cache
def archive() -> bytes:
    """The whole archive; the same sources make the same bytes. Raises OSError when they cannot be read."""
    sources = {"__main__.py": _MAIN}
    for name in _PACKED:
        place = _ROOT / "harness" / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []:
            sources[path.relative_to(_ROOT).as_posix()] = path.read_bytes()
    return packed(sources, compression=zipfile.ZIP_DEFLATED)
