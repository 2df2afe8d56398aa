"""Watches files and folders. An event, or a timer, only means "look again": files are compared with the last look."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from vmdns.files import FileStamp, read_stamp

# Debounce: files are written in several steps, and watchdog may delay one half of a rename by half a second. A look
# comes this long after the last event, and at the latest this long after the first.
DEBOUNCE_SECONDS = 0.05
MAX_SECONDS = 1.0
# On Windows watchdog keeps events back until none has come for this long, one second by default: never, in a folder
# where a log is written all the time, as VirtualBox's.
QUIET_SECONDS = 0.1
# Between looks without an event: none is sent for folders that are replaced or mounted, for changed links, and where
# the system has no watches left.
LOOK_SECONDS = 5.0
RETRY_SECONDS = 0.5

# Events that may mean new content. Reads cause no look: every program reads files of /etc. Linux has an event for
# closing a file after writing, other systems only for writing.
_CHANGES: list[type[events.FileSystemEvent]] = [
    events.FileCreatedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.FileClosedEvent if sys.platform == "linux" else events.FileModifiedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
    events.DirDeletedEvent,
]


@dataclass(slots=True)
class _Watch:
    find: Callable[[], Iterable[Path]]
    changed: Callable[[], object]
    stamps: dict[str, FileStamp] = field(default_factory=dict)
    again: bool = False

    def paths(self) -> list[Path]:
        try:
            return list(self.find())
        except OSError:  # a folder vanished meanwhile
            return []


class FileWatcher(events.FileSystemEventHandler):
    """Watches files and folders, which need not exist yet, and calls back from its own thread."""

    def __init__(self) -> None:
        self._observer: BaseObserver = Observer(timeout=QUIET_SECONDS)
        self._watches: list[_Watch] = []
        self._folders: dict[str, tuple[int, ...]] = {}
        self._event = threading.Event()
        self._running = False

    def add(self, find: Callable[[], Iterable[Path]], changed: Callable[[], object], *, at_once: bool = False) -> None:
        """Calls `changed` after a change of a file that `find` returns, or in a folder that it returns (not in
        subfolders); at the start too, if at_once. Where it returns True, it is called again after RETRY_SECONDS.

        Symbolic links are followed. `find` is called at each look.
        """
        watch = _Watch(find, changed, again=at_once)
        watch.stamps = _read_stamps(watch.paths())
        self._watches.append(watch)

    def start(self) -> None:
        """Starts the threads. Raises OSError if that is not possible."""
        self._observer.daemon = self._running = True
        self._observer.start()
        self._watch_folders()
        threading.Thread(target=self._run, name="files", daemon=True).start()

    def look(self) -> None:
        """Looks soon."""
        self._event.set()

    def stop(self) -> None:
        """Ends all callbacks."""
        if self._running:
            self._observer.stop()
        self._running = False
        self._event.set()

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        self._event.set()

    def _run(self) -> None:
        while self._running:
            for watch in self._watches:
                stamps = _read_stamps(watch.paths())
                if self._running and (watch.again or stamps != watch.stamps):
                    watch.stamps = stamps
                    with suppress(Exception):  # a folder vanished, the event loop that it calls is closed
                        watch.again = watch.changed() is True
            retry = any(watch.again for watch in self._watches)
            if self._event.wait(RETRY_SECONDS if retry else LOOK_SECONDS):
                first = time.monotonic()
                while self._event.is_set() and time.monotonic() < first + MAX_SECONDS:
                    self._event.clear()
                    self._event.wait(DEBOUNCE_SECONDS)
                self._event.clear()
            self._watch_folders()

    def _watch_folders(self) -> None:
        """Watches everything again whenever a folder was created, replaced or removed."""
        paths = (path for watch in self._watches for path in watch.paths())
        found = {folder: (read_stamp(folder) or ())[:2] for path in paths for folder in _folders_of(path)}
        # The emitter of a removed folder ends, and a new folder in its place may have the same inode.
        if found == self._folders and all(emitter.is_alive() for emitter in self._observer.emitters):
            return
        self._folders = found
        with suppress(Exception):
            self._observer.unschedule_all()
        for folder in found:
            # What cannot be watched is looked at now and then: no inotify watches are left, or it is not readable, for
            # which watchdog on Windows waits two seconds, prints a traceback and raises queue.Empty.
            with suppress(Exception), os.scandir(folder):
                self._observer.schedule(self, folder, recursive=False, event_filter=_CHANGES)


def _folders_of(path: Path) -> set[str]:
    """The folders in which a change may mean one of that file or folder: of a missing one, the nearest that exists."""
    found = set()
    # os.path, because pathlib raises for unreadable folders and circular links.
    for place in {str(path), os.path.realpath(path)}:
        folder = place
        while not os.path.isdir(folder) and folder != os.path.dirname(folder):
            folder = os.path.dirname(folder)
        found.add(folder)
    return found


def _read_stamps(paths: Iterable[Path]) -> dict[str, FileStamp]:
    """Values that change when one of these files is replaced or written, or a file in one of these folders."""
    found: dict[str, FileStamp] = {}
    for path in paths:
        found[str(path)] = read_stamp(path)
        with suppress(OSError):
            found.update((entry.path, read_stamp(entry.path)) for entry in os.scandir(path))
    return found
