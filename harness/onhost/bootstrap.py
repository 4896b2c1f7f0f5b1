"""The first thing that runs on a host: its source is sent to the Python there as it stands, and called.

Python 3.5 understands it, so that one that is too old can be told of.
"""

import json
import os
import sys
import tempfile
import typing


def become_session(stream: typing.BinaryIO, size: int, base: typing.Optional[str], mark: str) -> None:
    """Take the tools from `stream` (unbuffered), make the session's folder below `base`, become the session."""

    def fail(what: str, why: str) -> typing.NoReturn:
        os.write(1, (mark + " " + json.dumps({"failed": what, "why": why}) + "\n").encode())
        sys.exit(1)

    if sys.version_info < (3, 10):
        fail("python", "it is Python %d.%d.%d" % sys.version_info[:3])
    archive = b""
    while len(archive) < size:
        data = stream.read(min(size - len(archive), 65536))
        if not data:
            sys.exit(1)
        archive += data
    why = []
    for place in [base] if base else ["/run", "/tmp", "/var/tmp", os.path.expanduser("~")]:
        folder = ""
        try:
            if not base and os.statvfs(place).f_flag & os.ST_NOEXEC:
                why.append("%s: no program may be run there" % place)
                continue
            folder = tempfile.mkdtemp(prefix="rtc-bench-", dir=place)
            tools = folder + "/tools.pyz"
            with open(tools, "wb") as file:
                file.write(archive)
        except OSError as error:
            why.append("%s: %s" % (place, error.strerror or error))
            if folder:
                for remove, path in ((os.unlink, folder + "/tools.pyz"), (os.rmdir, folder)):
                    try:
                        remove(path)
                    except OSError:
                        pass  # a full disk had no room for it
            continue
        arguments = [sys.executable, "-IS", tools, "session", "--folder", folder, "--mark", mark]
        os.execv(sys.executable, arguments)
    fail("folder", "; ".join(why))
