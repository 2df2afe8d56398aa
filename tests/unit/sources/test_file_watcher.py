"""The watch on files and folders, with real ones."""

from __future__ import annotations

import errno
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmdns.sources import file_watcher
from vmdns.sources.file_watcher import FileWatcher

links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watcher, "LOOK_SECONDS", 0.05)


class Calls(queue.Queue[None]):
    def next(self) -> None:
        """Waits for the next call."""
        self.get(timeout=20)


@contextmanager
def watching(*paths: Path) -> Iterator[Calls]:
    watch, calls = FileWatcher(), Calls()
    watch.add(lambda: paths, lambda: calls.put(None))
    watch.start()
    try:
        yield calls
    finally:
        watch.stop()


def test_other_files_of_the_folder_and_reading_are_no_matter(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("x")
    with watching(one) as ones, watching(two) as twos:
        one.read_text()
        two.write_text("x")
        twos.next()
        assert ones.empty()
        one.write_text("xy")
        ones.next()


def test_a_log_that_is_written_all_the_time_keeps_no_event_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watcher, "LOOK_SECONDS", 60.0)
    one, log, done = tmp_path / "one", tmp_path / "log", threading.Event()

    def write() -> None:
        while not done.wait(0.3):
            log.write_text(f"{time.monotonic()}")

    noise = threading.Thread(target=write)
    with watching(one) as calls:
        noise.start()
        try:
            one.write_text("x")
            calls.next()
        finally:
            done.set()
            noise.join()


def test_anything_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "resolve"
    folder.mkdir()
    with watching(folder) as calls:
        for text in ("x", "longer"):
            (folder / "resolv.conf").write_text(text)
            calls.next()


@links
def test_a_link_counts_where_it_is_and_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    target, link = tmp_path / "run" / "stub-resolv.conf", tmp_path / "etc" / "resolv.conf"
    target.write_text("x")
    link.symlink_to(target)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with watching(tmp_path / "circle" / "file", link) as calls:
        target.write_text("yy")
        calls.next()
        link.unlink()
        link.write_text("own")
        calls.next()


def test_a_folder_that_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent is watched, as where VirtualBox was installed and never started."""
    monkeypatch.setattr(file_watcher, "LOOK_SECONDS", 3600.0)
    file = tmp_path / "user" / ".VirtualBox" / "VirtualBox.xml"
    with watching(file) as calls:
        for text in ("one", "longer"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            calls.next()


def test_a_folder_that_is_removed_and_made_again(tmp_path: Path) -> None:
    """It may have the inode of the one that was removed."""
    folder = tmp_path / "vmdns"
    folder.mkdir()
    with watching(folder / "file") as calls:
        for text in ("one", "two", "three"):
            while not (folder / "file").exists() or (folder / "file").read_text() != text:
                (folder / "file").write_text(text)
                calls.next()
            shutil.rmtree(folder)
            folder.mkdir()


@links
def test_a_folder_that_is_replaced_and_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    folder, link = tmp_path / "vmdns", tmp_path / "link"
    for name in ("vmdns", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link.symlink_to(tmp_path / "one")
    with watching(folder / "file", link / "file") as calls:
        folder.rename(tmp_path / "away")
        calls.next()
        folder.mkdir()
        (folder / "file").write_text("x")
        calls.next()
        link.unlink()
        link.symlink_to(tmp_path / "two")
        calls.next()
        (tmp_path / "two" / "file").write_text("x")
        calls.next()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "inotify watch limit reached"), queue.Empty()], ids=repr)
def test_a_folder_without_events_is_looked_at_now_and_then(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the user has no inotify watches left, and as watchdog on Windows fails."""
    watch, calls = FileWatcher(), Calls()

    def no_watches(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(watch._observer, "schedule", no_watches)
    watch.add(lambda: [tmp_path / "file"], lambda: calls.put(None))
    watch.start()
    (tmp_path / "file").write_text("x")
    calls.next()
    watch.stop()
