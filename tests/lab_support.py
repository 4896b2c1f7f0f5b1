"""./lab in a checkout of its own, on a machine of stand-ins for python and apt-get."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = [
    "sh",
    "dirname",
    "cat",
    "cksum",
    "sed",
    "readlink",
    "flock",
    "grep",
    "tail",
    "mkdir",
    "rm",
    "cp",
    "env",
]
TOOLS += ["sleep", "chmod", "touch"]

# Stands in for python3 and, copied, for the Python of both environments; notes each call.
PYTHON = r"""#!/bin/sh
for word in "$@"; do printf '%s\037' "$word"; done >>"$CALLS"
printf '\n' >>"$CALLS"
case "$*" in
*"-m venv "*) mkdir -p "$3/bin" && cp "$SELF" "$3/bin/python" ;;
*"-m tox run --notest"*)
    if [ -n "${TOX_GATE-}" ]; then echo making >"$TOX_GATE.reached"; read -r _ <"$TOX_GATE"; fi
    if [ -e "$CALLS.tox-fails" ]; then echo "no index can be reached"; exit 1; fi
    mkdir -p "$CHECKOUT/.tox/shared/bin" && cp "$SELF" "$CHECKOUT/.tox/shared/bin/python" ;;
*"-m pip install "*nodejs*) exit 1 ;;
*"-m harness.bench "*) echo "in $PWD with $PYTHONPATH" ;;
*"-m pytest "*)
    echo "pytest is $$"
    if [ -n "${HOLD-}" ]; then trap 'echo interrupted; exit 5' INT; echo holding; read -r _; fi
    exit "${PYTEST_STATUS:-0}" ;;
esac
"""

APT = r"""#!/bin/sh
printf 'apt-get\037' >>"$CALLS"
for word in "$@"; do printf '%s\037' "$word"; done >>"$CALLS"
printf '\n' >>"$CALLS"
case "$*" in
*update*) touch "$CALLS.updated" ;;
*install*)
    if [ -e "$CALLS.lists-missing" ] && [ ! -e "$CALLS.updated" ]; then
        echo "E: Unable to locate package"
        exit 100
    fi
    if [ -e "$CALLS.apt-fails" ]; then echo "E: the archive is on fire"; exit 100; fi
    echo '#!/bin/sh' >"$BIN/qemu-system-x86_64"
    chmod +x "$BIN/qemu-system-x86_64" ;;
esac
"""


@dataclass
class Checkout:
    """A checkout with only what ./lab reads, and the programs of a machine that has just these."""

    path: Path
    programs: Path
    calls_file: Path
    environment: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, text: str = "#!/bin/sh\n") -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.path / "lab"), *arguments],
            env=self.environment | environment,
            cwd=self.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lab(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def calls(self) -> list[list[str]]:
        """The calls of stand-ins since the last question, as lists of words."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [line.split("\037")[:-1] for line in lines]

    def kinds(self) -> list[str]:
        """The calls since the last question, in a word each."""
        words = {"venv": "venv", "pip": "pip", "tox": "tox", "pytest": "pytest"}
        kinds = []
        for call in self.calls():
            if call[0] == "apt-get":
                kinds.append("apt update" if "update" in call else "apt install")
            elif call[0] == "-m":
                kinds.append(words[call[1]])
        return kinds


def make_checkout(tmp_path: Path) -> Checkout:
    """One below a folder of a test's."""
    path, programs = tmp_path / "a checkout", tmp_path / "bin"
    path.mkdir()
    programs.mkdir()
    for name in ("lab", "tox.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, path)
    for name in TOOLS:
        real = shutil.which(name)
        assert real is not None
        (programs / name).symlink_to(real)
    calls = tmp_path / "calls"
    python = tmp_path / "python-stand-in"
    made = Checkout(path, programs, calls)
    made.environment = {
        "PATH": str(programs),
        "HOME": str(tmp_path),
        "CALLS": str(calls),
        "SELF": str(python),
        "BIN": str(programs),
        "CHECKOUT": str(path),
    }
    python.write_text(PYTHON)
    python.chmod(0o755)
    made.program("python3", PYTHON)
    made.program("id", "#!/bin/sh\necho 0\n")
    made.program("apt-get", APT)
    for name in ("qemu-system-x86_64", "busybox", "gcc", "strace", "sshd"):
        made.program(name)
    return made
