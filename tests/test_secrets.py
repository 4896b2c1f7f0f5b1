"""Secrets: where they are read from, and that nothing this process writes has one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.engine.rundir import RunDirectory
from harness.errors import ConfigurationError
from harness.guests.console_log import ConsoleLog
from harness.secrets import MASK, Masker, read_secret
from tests.docs_support import ROOT

AWKWARD = 'p\'s"s \\w€rd&'


def test_a_secret_comes_from_the_environment_or_from_the_first_line_of_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "of the environment")
    file = tmp_path / "secret"
    file.write_text("of a file\nand nothing of this\n")
    file.chmod(0o600)

    assert read_secret("MINE", None) == "of the environment"
    assert read_secret(None, file) == "of a file"
    assert read_secret(None, None) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_touch_is_refused_and_not_shown(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text("of a file\n")
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match="others may read it") as caught:
        read_secret(None, file)

    assert "of a file" not in str(caught.value)
    assert f"chmod 600 {file}" in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"NOT_THERE.* is not set"):
        read_secret("NOT_THERE", None)
    with pytest.raises(ConfigurationError, match="nowhere: No such file"):
        read_secret(None, tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hidden \xff\n")
    file.chmod(0o600)

    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        read_secret(None, file)

    assert caught.value.__cause__ is None and "hidden" not in repr(caught.value)


@pytest.mark.parametrize("secret", ["plain", AWKWARD, "%s{}", "with space"])
def test_a_secret_is_masked_in_each_form_that_it_takes_on_its_way(secret: str) -> None:
    import base64
    import shlex
    import urllib.parse

    masker = Masker()
    masker.register(secret)
    forms = [
        secret,
        repr([secret]),
        json.dumps({"a": secret}),
        shlex.join(["sudo", secret]),
        f"https://me:{urllib.parse.quote(secret, safe='')}@host",
        base64.b64encode(secret.encode()).decode(),
    ]

    for text in forms:
        assert MASK in masker.mask(text)
        assert secret not in masker.mask(text)
        assert masker.mask(text.encode()) == masker.mask(text).encode()


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    masker = Masker()
    masker.register("abcd")
    masker.register("abcdefgh")

    assert masker.mask("xabcdefghx abcd") == f"x{MASK}x {MASK}"


def test_data_stays_data() -> None:
    masker = Masker()
    masker.register("1234")

    assert masker.mask_value({"a1234": [1234, "x1234", None, True]}) == {
        f"a{MASK}": [1234, f"x{MASK}", None, True]
    }


def test_what_is_too_short_to_be_masked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    masker = Masker()
    masker.register("abc")
    masker.register("")

    assert not masker.active
    assert [record.message for record in caplog.records if "too short to be masked" in record.message]


SAYS_IT_EVERYWHERE = '''
import logging, pathlib, sys, threading
from harness.errors import InfrastructureError
from harness.secrets import read_secret
logging.basicConfig(level="DEBUG")
secret = read_secret("THE_SECRET", None)
log = logging.getLogger("some.where.below")
log.warning("1 says %s", secret)
log.warning("2 says " + secret)
try:
    raise OSError(f"cannot log in with {secret}")
except OSError:
    log.exception("3 says")
error = InfrastructureError("4 " + secret, awaited=secret, last_lines=["5 " + secret], hint=secret)
print(error, repr(error), error.problem, error.args, error.last_lines, file=sys.stderr)
def fails():
    raise ValueError("6 " + secret)
thread = threading.Thread(target=fails)
thread.start()
thread.join()
raise RuntimeError("7 " + secret) from error
'''


@pytest.mark.parametrize("secret", ["plain-secret", AWKWARD])
def test_a_process_that_knows_a_secret_says_it_nowhere(secret: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SAYS_IT_EVERYWHERE)],
        cwd=ROOT,
        env=os.environ | {"THE_SECRET": secret, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    assert secret not in done.stderr + done.stdout
    for number in ("1 says", "2 says", "cannot log in with", "4", "5", "6", "7"):
        assert f"{number} {MASK}" in done.stderr, done.stderr
    assert repr(secret)[1:-1] not in done.stderr


FAILS = '''
import logging
def test_it(monkeypatch):
    from harness.secrets import read_secret
    monkeypatch.setenv("THE_SECRET", "plain-secret")
    secret = read_secret("THE_SECRET", None)
    print("printed " + secret)
    logging.getLogger("x").warning("logged %s", secret)
    assert secret == "another " + secret
'''


def test_no_report_of_a_failed_test_has_it(tmp_path: Path) -> None:
    test = tmp_path / "test_fails.py"
    test.write_text(FAILS)
    junit, allure = tmp_path / "junit.xml", tmp_path / "allure"

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "fixtures.masking", "-p", "no:cacheprovider", "--showlocals"),
            *(f"--junitxml={junit}", f"--alluredir={allure}", str(test)),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    said = done.stdout + done.stderr
    for path in (junit, *allure.iterdir()):
        said += path.read_text().replace('monkeypatch.setenv("THE_SECRET", "plain-secret")', "")
    said = said.replace('"plain-secret")', "")  # the test's own line
    assert "1 failed" in said
    assert f"printed {MASK}" in said and f"logged {MASK}" in said
    assert "plain-secret" not in said
    assert f"FAILED test_fails.py::test_it - AssertionError: assert '{MASK}'" in done.stdout


def test_a_console_that_echoes_it_is_kept_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masker = Masker()
    masker.register("hidden")
    monkeypatch.setattr("harness.guests.console_log.MASKER", masker)
    log = ConsoleLog(tmp_path / "console.log")

    for piece in (b"login: hid", b"den\r\nnext", b" line\r\n"):
        log.add(piece)
    log.close()

    kept = (tmp_path / "console.log").read_bytes() + (tmp_path / "console.raw").read_bytes()
    assert b"hidden" not in kept and b"next line" in kept
    assert b"hid\n" not in kept


def test_without_secrets_nothing_is_touched() -> None:
    masker = Masker()

    assert not masker.active
    assert masker.mask("any") == "any"


def test_what_a_run_leaves_of_itself_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_SECRET", "plain-secret")
    monkeypatch.setattr("sys.argv", ["pytest", "--bench", "plain-secret.yaml"])
    secret = read_secret("THE_SECRET", None)
    run = RunDirectory(tmp_path / "run", 1, {"host": f"me:{secret}@host"})
    run.add_error("infrastructure error", None, f"refused {secret}")
    run.add_note(f"says {secret}")
    run.end()

    left = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert f"refused {MASK}" in left and f"me:{MASK}@host" in left
    assert "plain-secret" not in left
