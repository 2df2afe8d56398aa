"""Watches files and folders. An event only means "look again"."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
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

# Debounce: files are written in several steps, and watchdog may delay one half of a rename by half a second. The
# callback comes this long after the last change, and at the latest this long after the first.
DEBOUNCE_SECONDS = 0.05
MAX_SECONDS = 1.0
# Interval of checks for folders that were created, replaced or mounted, and for changed links: no event is sent for
# those.
FOLDER_SECONDS = 2.0
RETRY_SECONDS = 0.5

# Events that may mean new content. Reads cause no callback: every program reads files of /etc. Linux has an event for
# closing a file after writing, other systems only for writing.
_CHANGES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    FileClosedEvent if sys.platform == "linux" else FileModifiedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


class Watch:
    """What to watch, whom to call, and when: due is a monotonic time, infinite if there is no reason."""

    def __init__(self, find: Callable[[], Iterable[Path]], changed: Callable[[], object]) -> None:
        self.find = find
        self.changed = changed
        self.due = float("inf")
        self._first = 0.0

    def postpone(self, now: float) -> None:
        """Sets the time of the call after an event."""
        if self.due == float("inf"):
            self._first = now
        self.due = min(now + DEBOUNCE_SECONDS, self._first + MAX_SECONDS)


class FileWatcher:
    """Watches files and folders, which need not exist yet, and calls back from its own thread."""

    def __init__(self) -> None:
        self._observer: BaseObserver = Observer()
        self._poller: BaseObserver | None = None
        self._running = False
        self._watches: list[Watch] = []
        self._folders: dict[Path, tuple[int, int] | None] = {}
        self._events: queue.SimpleQueue[Watch | None] = queue.SimpleQueue()

    def add(self, find: Callable[[], Iterable[Path]], changed: Callable[[], object], *, at_once: bool = False) -> None:
        """Calls `changed` after a change of a file that `find` returns, or in a folder that it returns (not in
        subfolders); at the start too, if at_once. The name of a file may be a pattern. For a symbolic link, both the
        link and its target are watched.

        `find` is called again every FOLDER_SECONDS. `changed` is called again after RETRY_SECONDS if it returns True.
        """
        self._watches.append(Watch(find, changed))
        if at_once:
            self._watches[-1].due = 0.0

    def start(self) -> list[str]:
        """Starts the threads. Returns a sentence for each folder that must be polled because it cannot be watched.

        Raises OSError if no thread can be started.
        """
        # An observer that is scheduled before it runs fails at its start for a missing folder.
        _start(self._observer)
        self._running = True
        self._folders = self._find_folders()
        troubles = self._schedule()
        threading.Thread(target=self._run, name="files", daemon=True).start()
        return troubles

    def check(self) -> None:
        """Looks for new folders at once."""
        self._events.put(None)

    def stop(self) -> None:
        """Ends all callbacks."""
        for observer in (self._observer, self._poller):
            if observer is not None and self._running:
                observer.stop()
        self._running = False
        self._events.put(None)

    def _run(self) -> None:
        checked = time.monotonic()
        while self._running:
            now = time.monotonic()
            if now >= checked + FOLDER_SECONDS:
                checked = now
                self._check_folders()
            for watch in self._watches:
                if watch.due <= now and self._running:
                    watch.due = float("inf")
                    with suppress(RuntimeError):  # the event loop that it calls is closed
                        if watch.changed() is True:
                            watch.due = now + RETRY_SECONDS
            due = min(checked + FOLDER_SECONDS, *(watch.due for watch in self._watches))
            with suppress(queue.Empty):
                watched = self._events.get(timeout=max(0.0, due - time.monotonic()))
                if watched is None:
                    checked = float("-inf")
                else:
                    watched.postpone(time.monotonic())

    def _check_folders(self) -> None:
        """Watches everything again whenever a folder was created, replaced or removed."""
        found = self._find_folders()
        observers = [one for one in (self._observer, self._poller) if one is not None]
        # The emitter of a removed folder ends, and a new folder in its place may have the same inode.
        alive = all(emitter.is_alive() for observer in observers for emitter in observer.emitters)
        if found == self._folders and alive:
            return
        self._folders = found
        for observer in observers:
            observer.unschedule_all()
        self._schedule()
        for watch in self._watches:  # for changes before and between the two watches
            watch.postpone(time.monotonic())

    def _schedule(self) -> list[str]:
        troubles = []
        for watch in self._watches:
            for folder, names in _by_folder(watch.find()).items():
                handler = _Handler(names, watch, self._events)
                try:
                    self._observer.schedule(handler, str(folder), recursive=False, event_filter=_CHANGES)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # `_check_folders` notices when it exists
                except OSError as error:  # such as no inotify watches left
                    why = f"{folder} cannot be watched ({error.strerror or error}); it is polled every second"
                    troubles.append(why)
                    if self._poller is None:
                        self._poller = PollingObserver()
                        _start(self._poller)
                    with suppress(OSError):
                        self._poller.schedule(handler, str(folder), recursive=False)
        return troubles

    def _find_folders(self) -> dict[Path, tuple[int, int] | None]:
        """The folders to watch now, with device and inode; None for a missing one."""
        found: dict[Path, tuple[int, int] | None] = {}
        for watch in self._watches:
            for folder in _by_folder(watch.find()):
                try:
                    status = folder.stat()
                except OSError:
                    found[folder] = None
                else:
                    found[folder] = status.st_dev, status.st_ino
        return found


def _start(observer: BaseObserver) -> None:
    observer.daemon = True
    observer.start()


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
    def __init__(self, names: set[str] | None, watch: Watch, events: queue.SimpleQueue[Watch | None]) -> None:
        self._names = names
        self._watch = watch
        self._events = events

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            name = Path(os.fsdecode(path)).name
            if name and (self._names is None or any(name == one or fnmatchcase(name, one) for one in self._names)):
                self._events.put(self._watch)
