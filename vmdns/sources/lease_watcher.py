"""Watches the lease files in VirtualBox's folder, and reports them whenever one changes.

VBoxNetDHCP writes `-Dhcpd.leases-tmp` and renames it over the lease file, so the folder is watched, not the file.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from vmdns.sources.file_watcher import CHANGES, watches
from vmdns.sources.lease_file import SUFFIX, Damaged, read_leases
from vmdns.state.facts import Lease

# A file that is missing or damaged may be in the middle of being written: how long to wait before each new look.
RETRIES = (0.02, 0.2, 0.5, 1.0, 2.0)
# A folder that is replaced, removed or unmounted says nothing of it to whoever watches it: how often that is looked at.
FOLDER_SECONDS = 2.0
SETTINGS = "VirtualBox.xml"
# How long after the new file was written its rename is over; watchdog may hold the rename back for half a second.
RENAME_SECONDS = 0.03
_FRESH = SUFFIX + "-tmp"
_FOLDER = ""  # stands for the folder among the files in trouble


class LeaseWatcher:
    """Watches one folder from threads of its own.

    report receives the leases of all files, by a key of their own, whenever they changed; trouble one sentence
    for a file that cannot be read, '' once all can; settings is called when VirtualBox.xml was replaced.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[Mapping[str, Lease]], None],
        trouble: Callable[[str], None],
        settings: Callable[[], None],
    ) -> None:
        self.folder = folder
        self._report = report
        self._trouble = trouble
        self._settings = settings
        self._files: dict[str, tuple[Lease, ...]] = {}
        self._bad: dict[str, str] = {}
        self._said = ""
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._observer: BaseObserver | None = None
        self._seen: tuple[int, int] | None = None  # which folder is watched, where the system tells folders apart

    def start(self) -> None:
        """Begins to watch, and reports what is there. Raises OSError where the folder is missing."""
        self._watch()
        self._queue.put("")
        self._thread.start()

    def _watch(self) -> None:
        """Watches the folder, and has all that it holds looked at. Raises OSError."""
        handler = _Names(self._queue.put)
        self._seen = _identity(self.folder)
        try:
            self._observer = _observe(Observer(), handler, self.folder)
        except FileNotFoundError:
            raise
        except OSError:  # no inotify watches left: look every second instead
            self._observer = _observe(PollingObserver(), handler, self.folder)
        for name in {*(path.name for path in self.folder.glob("*" + SUFFIX)), *self._files}:
            self._queue.put(name)

    def _follow(self) -> None:
        """Watches the folder that is there now, where another took the place of the one that was watched."""
        found = _identity(self.folder)
        if found == self._seen and (self._observer is None or watches(self._observer)):
            return
        self._note(_FOLDER, "" if found else f"{self.folder} is gone; the last leases stay in force")
        if found is None:
            self._seen = None
            return
        try:
            if self._observer is not None:
                self._observer.stop()
            self._watch()
        except OSError:
            self._seen = None  # gone again, or not ours to read yet

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
        self._queue.put(None)

    def _run(self) -> None:
        due: dict[str, tuple[float, int]] = {}
        first = True
        followed = time.monotonic()
        while True:
            names = self._next(due)
            if names is None:
                return
            if time.monotonic() - followed >= FOLDER_SECONDS:
                self._follow()
                followed = time.monotonic()
            if SETTINGS in names:
                self._settings()
            now = time.monotonic()
            for name in names:
                if name.endswith(_FRESH):
                    due.setdefault(name.removesuffix("-tmp"), (now + RENAME_SECONDS, 0))
            looks = [(name, 0) for name in names if name.endswith(SUFFIX)]
            looks += [(name, tries) for name, (at, tries) in due.items() if at <= now and name not in names]
            changed = False
            for name, tries in looks:
                due.pop(name, None)
                done, fresh = self._look(name, last=tries >= len(RETRIES))
                changed = changed or fresh
                if not done:
                    due[name] = (now + RETRIES[min(tries, len(RETRIES) - 1)], tries + 1)
            if changed or first:
                first = False
                self._report(self._facts())
            # After the first report, which says that all is well.
            if (text := "; ".join(self._bad.values())) != self._said:
                self._said = text
                self._trouble(text)

    def _next(self, due: Mapping[str, tuple[float, int]]) -> set[str] | None:
        """The names that changed, gathered until the queue is empty; empty when a new look is due; None to end."""
        left = min((at for at, _ in due.values()), default=float("inf")) - time.monotonic()
        timeout = max(0.0, min(left, FOLDER_SECONDS))
        names: set[str] = set()
        try:
            item = self._queue.get(timeout=timeout)
            while item is not None:
                names.add(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return names
        return None

    def _look(self, name: str, *, last: bool) -> tuple[bool, bool]:
        """Reads one file: whether that is settled, and whether its leases changed."""
        before = self._files.get(name, ())
        try:
            self._files[name] = read_leases(self.folder / name)
            self._note(name, "")
            return True, self._files[name] != before
        except FileNotFoundError:
            # Between the two renames the file is away for an instant. With its folder gone, nothing is known of it.
            if last and (self._seen is None or _identity(self.folder) != self._seen):
                return False, False
            if last:
                self._files.pop(name, None)
                self._note(name, "")
            return last, last and bool(before)
        except (OSError, Damaged) as error:
            self._note(name, f"{name} cannot be read ({error}); its last good content stays in force")
            # It is looked at until it can be read: who gets the right to read a file gets no event.
            return False, False

    def _note(self, name: str, text: str) -> None:
        if self._bad.get(name, "") == text:
            return
        self._bad.pop(name, None)
        if text:
            self._bad[name] = text

    def _facts(self) -> dict[str, Lease]:
        found = (lease for file in self._files.values() for lease in file)
        ordered = sorted(found, key=lambda one: one.issued)
        return {f"lease:{one.network} {one.mac} {one.address}": one for one in ordered}


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder this is, or None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _observe(observer: BaseObserver, handler: FileSystemEventHandler, folder: Path) -> BaseObserver:
    observer.daemon = True
    observer.schedule(handler, str(folder), recursive=False, event_filter=CHANGES)
    observer.start()
    return observer


class _Names(FileSystemEventHandler):
    """Passes on the names of files that matter; VirtualBox writes logs into the same folder all the time."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            name = Path(path if isinstance(path, str) else path.decode(errors="replace")).name
            if name.endswith((SUFFIX, _FRESH)) or name == SETTINGS:
                self._put(name)
