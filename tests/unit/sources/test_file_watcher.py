"""The watch on files and folders, with real ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vmdns.sources import file_watcher as files
from vmdns.sources.file_watcher import FileWatcher


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.05)


links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right on Windows")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


class Looks:
    """Counts how often it was called, and waits for the next call."""

    def __init__(self) -> None:
        self.count = 0
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._called.set()

    async def next(self) -> None:
        await self._called.wait()
        self._called.clear()


def in_loop(call: Callable[[], None]) -> Callable[[], object]:
    """That function as one to be called from another thread."""
    return partial(asyncio.get_running_loop().call_soon_threadsafe, call)


@contextlib.asynccontextmanager
async def watching(*paths: Path) -> AsyncIterator[Looks]:
    watch, looks = FileWatcher(), Looks()
    watch.add(lambda: paths, in_loop(looks))
    watch.start()
    try:
        yield looks
    finally:
        watch.stop()


def test_written_made_replaced_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "hosts"

    async def scenario() -> None:
        async with watching(file) as looks:
            file.write_text("made")
            await looks.next()
            with file.open("a") as opened:
                opened.write("more")
            await looks.next()
            (tmp_path / "new").write_text("other")
            (tmp_path / "new").replace(file)
            await looks.next()
            file.unlink()
            await looks.next()

    run(scenario())


def test_other_files_of_the_folder_are_no_matter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "one") as one, watching(tmp_path / "two") as two:
            (tmp_path / "two").write_text("x")
            await two.next()
            assert one.count == 0
            (tmp_path / "one").write_text("x")
            await one.next()

    run(scenario())


def test_reading_a_file_is_no_change(tmp_path: Path) -> None:
    read, written = tmp_path / "read", tmp_path / "written"
    read.write_text("x")

    async def scenario() -> None:
        async with watching(read) as looks, watching(written) as others:
            for _ in range(3):
                read.read_text()
            written.write_text("x")  # what happened before was seen before
            await others.next()
            assert looks.count == 0

    run(scenario())


def test_anything_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "resolve"
    folder.mkdir()

    async def scenario() -> None:
        async with watching(folder) as looks:
            (folder / "resolv.conf").write_text("x")
            await looks.next()
            (folder / "stub").write_text("x")
            await looks.next()

    run(scenario())


@links
def test_a_link_counts_where_it_is_and_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    target, link = tmp_path / "run" / "stub-resolv.conf", tmp_path / "etc" / "resolv.conf"
    target.write_text("x")
    link.symlink_to(target)

    async def scenario() -> None:
        async with watching(link) as looks:
            target.write_text("y")
            await looks.next()
            link.unlink()
            link.write_text("own")
            await looks.next()

    run(scenario())


def test_a_folder_that_is_made_later_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "vmdns"

    async def scenario() -> None:
        async with watching(folder / "vmdns.toml", tmp_path / "other") as looks:
            (tmp_path / "other").write_text("x")  # a missing folder hinders no other
            await looks.next()
            folder.mkdir(parents=True)
            (folder / "vmdns.toml").write_text("x")
            await looks.next()
            (folder / "vmdns.toml").write_text("y")
            await looks.next()

    run(scenario())


def test_a_folder_that_is_removed_and_made_again(tmp_path: Path) -> None:
    """It may have the inode of the one that was removed."""
    folder = tmp_path / "vmdns"
    folder.mkdir()

    async def scenario() -> None:
        watch, read = FileWatcher(), asyncio.Queue[str]()

        def look() -> None:
            with contextlib.suppress(FileNotFoundError):
                read.put_nowait((folder / "file").read_text())

        watch.add(lambda: [folder / "file"], in_loop(look))
        watch.start()
        try:
            for text in ("one", "two", "three"):
                (folder / "file").write_text(text)
                while await read.get() != text:
                    pass
                shutil.rmtree(folder)
                folder.mkdir()
        finally:
            watch.stop()

    run(scenario())


@links
def test_a_folder_that_is_replaced_and_a_link_that_leads_elsewhere(tmp_path: Path) -> None:
    folder, link = tmp_path / "vmdns", tmp_path / "link"
    for name in ("vmdns", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link.symlink_to(tmp_path / "one")

    async def scenario() -> None:
        async with watching(folder / "file", link / "file") as looks:
            folder.rename(tmp_path / "away")
            await looks.next()
            folder.mkdir()
            (folder / "file").write_text("x")
            await looks.next()
            link.unlink()
            link.symlink_to(tmp_path / "two")
            await looks.next()
            (tmp_path / "two" / "file").write_text("x")
            await looks.next()

    run(scenario())


@links
def test_a_link_in_a_circle_hinders_no_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")

    async def scenario() -> None:
        async with watching(tmp_path / "link" / "file", tmp_path / "file") as looks:
            (tmp_path / "file").write_text("x")
            await looks.next()

    run(scenario())


def test_a_folder_without_events_is_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the user has no inotify watches left."""

    async def scenario() -> None:
        watch, looks = FileWatcher(), Looks()

        def no_watches(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

        monkeypatch.setattr(watch._observer, "schedule", no_watches)
        watch.add(lambda: [tmp_path / "file"], in_loop(looks))
        watch.start()
        try:
            (tmp_path / "file").write_text("x")
            await looks.next()
        finally:
            watch.stop()

    run(scenario())


def test_several_changes_at_once_are_one_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "file") as looks:
            for number in range(20):
                (tmp_path / "file").write_text("x" * number)
            await looks.next()
            assert looks.count <= 2

    run(scenario())


def test_after_the_end_nothing_is_called(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "b") as others:
            async with watching(tmp_path / "a") as looks:
                pass
            (tmp_path / "a").write_text("x")
            (tmp_path / "b").write_text("x")
            await others.next()
            assert looks.count == 0

    run(scenario())


def test_a_watch_that_never_began_can_be_stopped() -> None:
    FileWatcher().stop()
