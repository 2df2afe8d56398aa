"""Calls back when something in one of some folders changed: an event only ever means "look again"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

# Editors and network managers write a file in several steps; one look after the last of them is enough.
SETTLE_SECONDS = 0.1


class FolderWatch:
    """Watches folders for certain file names, and calls back in the event loop's thread."""

    def __init__(self) -> None:
        self._observer: BaseObserver = Observer()
        self._observer.daemon = True
        self._started = False
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def add(self, files: Iterable[Path], changed: Callable[[], None]) -> list[str]:
        """Calls `changed` after any of these files was written, replaced, made or removed; symbolic links count
        where they are and where they lead. Returns a sentence for each folder that cannot be watched."""
        loop = asyncio.get_running_loop()
        troubles = []
        wanted: dict[Path, set[str]] = {}
        for file in files:
            for one in {file, file.resolve()}:
                wanted.setdefault(one.parent, set()).add(one.name)
        for folder, names in wanted.items():
            handler = _Handler(names, partial(self._from_thread, loop, changed))
            try:
                self._observer.schedule(handler, str(folder), recursive=False)
            except OSError as error:
                troubles.append(f"{folder} cannot be watched ({error.strerror or error})")
        return troubles

    def start(self) -> None:
        """Begins to watch. Raises OSError where the system has no watches left."""
        self._observer.start()
        self._started = True

    def _from_thread(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(self._soon, loop, changed)

    def _soon(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        timer = self._timers.pop(changed, None)
        if timer is not None:
            timer.cancel()
        self._timers[changed] = loop.call_later(SETTLE_SECONDS, changed)

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._started:
            self._observer.stop()


class _Handler(FileSystemEventHandler):
    def __init__(self, names: set[str], changed: Callable[[], None]) -> None:
        self._names = names
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return
        for path in (event.src_path, event.dest_path):
            name = Path(path if isinstance(path, str) else path.decode(errors="replace")).name
            if name in self._names:
                try:
                    self._changed()
                except RuntimeError:
                    return  # the loop is closed
