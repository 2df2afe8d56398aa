"""Watches files and folders. An event only means "read again"."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

# Debounce: editors and network managers write a file in several steps. The callback comes this long after the last
# change, and at the latest this long after the first.
DEBOUNCE_SECONDS = 0.1
MAX_SECONDS = 1.0
# Interval of checks for folders that were created, replaced or mounted, and for changed links: no event is sent for
# those.
FOLDER_SECONDS = 2.0

# Events that may mean new content. Reads cause no callback: every program reads files of /etc. Linux has an event for
# closing a file after writing, other systems only for writing.
CHANGES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    FileClosedEvent if sys.platform == "linux" else FileModifiedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


Find = Callable[[], Iterable[Path]]


class FolderWatch:
    """Watches files and folders, which need not exist yet. Callbacks run in the event loop's thread."""

    def __init__(self) -> None:
        self._observer: BaseObserver = Observer()
        self._poller: BaseObserver | None = None
        self._running = False
        self._timers: dict[Callable[[], None], tuple[float, asyncio.TimerHandle]] = {}
        self._lock = threading.Lock()  # for the two below
        self._wanted: list[tuple[Find, Callable[[], None]]] = []
        self._seen: dict[Path, tuple[int, int] | None] = {}
        self._end = threading.Event()

    def add(self, find: Find, changed: Callable[[], None]) -> list[str]:
        """Calls `changed` after a change of a file that `find` returns, or in a folder that it returns (not in
        subfolders). For a symbolic link, both the link and its target are watched.

        `find` is called again every FOLDER_SECONDS, in a thread. Returns a sentence for each folder that must be polled
        because it cannot be watched. Raises OSError if no thread can be started.
        """
        wanted = find, partial(self._from_thread, asyncio.get_running_loop(), changed)
        self.start()
        with self._lock:
            self._wanted.append(wanted)
            self._seen = self._folders()
            return self._schedule(*wanted)

    def start(self) -> None:
        """Starts the threads; `add` does that too. Raises OSError."""
        # An observer that is scheduled before it runs fails at its start for a missing folder.
        if not self._running:
            _start(self._observer)
            self._running = True
            threading.Thread(target=self._rewatch, name="folders", daemon=True).start()

    def _schedule(self, find: Find, changed: Callable[[], None]) -> list[str]:
        troubles = []
        for folder, names in _by_folder(find()).items():
            handler = _Handler(names, changed)
            try:
                self._observer.schedule(handler, str(folder), recursive=False, event_filter=CHANGES)
            except (FileNotFoundError, NotADirectoryError):
                continue  # `_rewatch` notices when it exists
            except OSError as error:  # such as no inotify watches left
                troubles.append(f"{folder} cannot be watched ({error.strerror or error}); it is polled every second")
                if self._poller is None:
                    self._poller = PollingObserver()
                    _start(self._poller)
                with suppress(OSError):
                    self._poller.schedule(handler, str(folder), recursive=False)
        return troubles

    def _folders(self) -> dict[Path, tuple[int, int] | None]:
        """The folders to watch now, with device and inode; None for a missing one."""
        found: dict[Path, tuple[int, int] | None] = {}
        for find, _ in self._wanted:
            for folder in _by_folder(find()):
                try:
                    status = folder.stat()
                except OSError:
                    found[folder] = None
                else:
                    found[folder] = status.st_dev, status.st_ino
        return found

    def _rewatch(self) -> None:
        """Watches everything again whenever a folder was created, replaced or removed."""
        while not self._end.wait(FOLDER_SECONDS):
            with self._lock:
                found = self._folders()
                observers = [one for one in (self._observer, self._poller) if one is not None]
                if found == self._seen and all(map(is_watching, observers)):
                    continue
                self._seen = found
                for observer in observers:
                    observer.unschedule_all()
                for wanted in self._wanted:
                    self._schedule(*wanted)
                changed = [call for _, call in self._wanted]
            for call in changed:  # for changes before and between the two watches
                with suppress(RuntimeError):  # the loop is closed
                    call()

    def _from_thread(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(self._debounce, loop, changed)

    def _debounce(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        if not self._running:
            return
        now = loop.time()
        first = now
        if changed in self._timers:
            first, timer = self._timers[changed]
            timer.cancel()
        at = min(now + DEBOUNCE_SECONDS, first + MAX_SECONDS)
        self._timers[changed] = first, loop.call_at(at, self._look, changed)

    def _look(self, changed: Callable[[], None]) -> None:
        del self._timers[changed]
        changed()

    def stop(self) -> None:
        """Ends all callbacks."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._end.set()
        for observer in (self._observer, self._poller):
            if observer is not None and self._running:
                observer.stop()
        self._running = False


def _start(observer: BaseObserver) -> None:
    observer.daemon = True
    observer.start()


def is_watching(observer: BaseObserver) -> bool:
    """Whether it still watches all its folders. The emitter of a removed folder ends, and a new folder in its place may
    have the same inode."""
    return all(emitter.is_alive() for emitter in observer.emitters)


def _by_folder(paths: Iterable[Path]) -> dict[Path, set[str] | None]:
    """The folders to watch, each with the relevant file names; None for all."""
    wanted: dict[Path, set[str] | None] = {}
    for path in paths:
        # os.path, because pathlib raises for unreadable folders and circular links.
        for one in {path, Path(os.path.realpath(path))}:
            if os.path.isdir(one):
                wanted[one] = None
            elif (names := wanted.setdefault(one.parent, set())) is not None:
                names.add(one.name)
    return wanted


class _Handler(FileSystemEventHandler):
    def __init__(self, names: set[str] | None, changed: Callable[[], None]) -> None:
        self._names = names
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            name = Path(path if isinstance(path, str) else path.decode(errors="replace")).name
            if name and (self._names is None or name in self._names):
                try:
                    self._changed()
                except RuntimeError:
                    return  # the loop is closed
