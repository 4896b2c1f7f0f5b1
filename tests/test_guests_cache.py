"""The image cache: entries are whole or not there, and built once however many runs want them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.cache import Cache, default_cache_dir


def never(folder: Path) -> None:
    raise AssertionError(f"built again in {folder}")


def build(folder: Path) -> None:
    (folder / "file").write_text("contents")


def test_an_entry_is_built_once_and_found_after_that(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.find("kind", "key") is None
    folder = cache.get("kind", "key", build, Deadline(20))
    assert (folder / "file").read_text() == "contents"
    assert cache.get("kind", "key", never, Deadline(20)) == folder == cache.find("kind", "key")


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        build(folder)
        raise InfrastructureError("no network")

    cache = Cache(tmp_path)
    with pytest.raises(InfrastructureError, match="no network"):
        cache.get("kind", "key", fail, Deadline(20))
    assert list((tmp_path / "kind").iterdir()) == []


@pytest.mark.parametrize("harm", ["cut", "missing", "no manifest", "bad manifest"])
def test_a_damaged_entry_is_not_used_but_built_again(tmp_path: Path, harm: str) -> None:
    cache = Cache(tmp_path)
    folder = cache.get("kind", "key", build, Deadline(20))
    manifest = folder / "complete.json"
    harms: dict[str, Callable[[], object]] = {
        "cut": lambda: os.truncate(folder / "file", 3),
        "missing": (folder / "file").unlink,
        "no manifest": manifest.unlink,
        "bad manifest": lambda: manifest.write_text("[1]"),
    }
    harms[harm]()
    assert cache.find("kind", "key") is None
    assert (cache.get("kind", "key", build, Deadline(20)) / "file").read_text() == "contents"


def test_what_a_killed_run_left_is_swept_away_by_the_next(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from harness.guests.cache import Cache; from harness.deadline import Deadline\n"
        "def build(folder):\n"
        "    (folder / 'file').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Cache(Path(sys.argv[1])).get('kind', 'key', build, Deadline(20))\n"
    )
    root = Path(__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False)
    assert killed.returncode == -9
    assert list((tmp_path / "kind").glob(".unfinished-*"))
    cache = Cache(tmp_path)
    assert cache.find("kind", "key") is None
    folder = cache.get("kind", "key", build, Deadline(20))
    assert list((tmp_path / "kind").iterdir()) == [folder]


def test_parallel_runs_build_an_entry_once(tmp_path: Path) -> None:
    built: list[Path] = []
    inside, go_on = threading.Event(), threading.Event()

    def slowly(folder: Path) -> None:
        built.append(folder)
        inside.set()
        assert go_on.wait(30)
        build(folder)

    def want() -> None:
        Cache(tmp_path).get("kind", "key", slowly, Deadline(60))

    runs = [threading.Thread(target=want) for _ in range(4)]
    runs[0].start()
    assert inside.wait(30)
    for run in runs[1:]:
        run.start()
    go_on.set()
    for run in runs:
        run.join(60)
    assert len(built) == 1


def test_a_lock_held_beyond_the_deadline_is_told(tmp_path: Path) -> None:
    with Cache(tmp_path).lock(Deadline(20)), pytest.raises(InfrastructureError, match="another run"):
        Cache(tmp_path).get("kind", "key", build, Deadline(0.1))


def test_a_full_disk_is_told_with_a_way_out(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(InfrastructureError, match="No space left") as caught:
        Cache(tmp_path).get("kind", "key", fill, Deadline(20))
    assert "RTC_BENCH_CACHE" in str(caught.value)


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cache"):
        Cache(tmp_path / "file").get("kind", "key", build, Deadline(20))


def test_the_place_is_the_users_choice_then_xdgs_then_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RTC_BENCH_CACHE", raising=False)
    assert default_cache_dir() == Path("/home/x/.cache/acrn-rtc-bench")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/acrn-rtc-bench")
    monkeypatch.setenv("RTC_BENCH_CACHE", "/mine")
    assert default_cache_dir() == Path("/mine")
