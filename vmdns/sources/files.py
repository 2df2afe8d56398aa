"""Calls back when something in one of some folders changed: an event only ever means "look again"."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
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

# Editors and network managers write a file in several steps; one look after the last of them is enough, and one
# that comes this much after the first where there is no last.
SETTLE_SECONDS = 0.1
LONGEST_SECONDS = 1.0

# What may mean other content. A file that is only read must not wake anybody: every program reads files of /etc. Linux
# tells when a file that was written is closed, others only that it was written.
CHANGES: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    FileClosedEvent if sys.platform == "linux" else FileModifiedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


class FolderWatch:
    """Watches files and folders, and calls back in the event loop's thread."""

    def __init__(self) -> None:
        self._observer: BaseObserver = Observer()
        self._observer.daemon = True
        self._running = False
        self._timers: dict[Callable[[], None], tuple[float, asyncio.TimerHandle]] = {}

    def add(self, paths: Iterable[Path], changed: Callable[[], None]) -> list[str]:
        """Calls `changed` after any of these files was written, replaced, made or removed, or anything in any of
        these folders (not in their subfolders); symbolic links count where they are and where they lead. Returns a
        sentence for each folder that cannot be watched. Raises OSError where no thread can be started."""
        loop = asyncio.get_running_loop()
        self.start()
        troubles = []
        wanted: dict[Path, set[str] | None] = {}
        for path in paths:
            for one in {path, path.resolve()}:
                if one.is_dir():
                    wanted[one] = None
                elif (names := wanted.setdefault(one.parent, set())) is not None:
                    names.add(one.name)
        for folder, names in wanted.items():
            handler = _Handler(names, partial(self._from_thread, loop, changed))
            try:
                self._observer.schedule(handler, str(folder), recursive=False, event_filter=CHANGES)
            except OSError as error:
                troubles.append(f"{folder} cannot be watched ({error.strerror or error})")
        return troubles

    def start(self) -> None:
        """Begins to watch, as `add` does too. Raises OSError where the system cannot."""
        # First of all: an observer that is not running yet notices a missing folder only when it starts, and gives up.
        if not self._running:
            self._observer.start()
            self._running = True

    def _from_thread(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(self._soon, loop, changed)

    def _soon(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        if not self._running:
            return
        now = loop.time()
        first = now
        if changed in self._timers:
            first, timer = self._timers[changed]
            timer.cancel()
        at = min(now + SETTLE_SECONDS, first + LONGEST_SECONDS)
        self._timers[changed] = first, loop.call_at(at, self._look, changed)

    def _look(self, changed: Callable[[], None]) -> None:
        del self._timers[changed]
        changed()

    def stop(self) -> None:
        """Calls back no more."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._running:
            self._running = False
            self._observer.stop()


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
