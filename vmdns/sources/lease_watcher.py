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

from vmdns.sources.file_watcher import CHANGES, is_watching
from vmdns.sources.lease_file import SUFFIX, InvalidLeaseFile, read_leases
from vmdns.state.facts import Lease

# A missing or invalid file may be half written: seconds before each retry.
RETRIES = (0.02, 0.2, 0.5, 1.0, 2.0)
# A folder that is replaced, removed or unmounted causes no event: interval of that check.
FOLDER_SECONDS = 2.0
SETTINGS = "VirtualBox.xml"
# The rename follows the written file within this time; watchdog may delay the rename's event by half a second.
RENAME_SECONDS = 0.03
_TEMPORARY = SUFFIX + "-tmp"
_FOLDER = ""  # the key of the folder in _bad


class LeaseWatcher:
    """Watches one folder from its own threads.

    report receives the leases of all files by their keys, whenever they changed; trouble receives a sentence about
    files that cannot be read, '' once all can; settings is called when VirtualBox.xml was replaced.
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
        self._reported_trouble = ""
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._observer: BaseObserver | None = None
        self._seen: tuple[int, int] | None = None  # which folder is watched, by device and inode

    def start(self) -> None:
        """Starts the threads, and reports all leases. Raises OSError if the folder is missing."""
        self._watch()
        self._queue.put("")
        self._thread.start()

    def _watch(self) -> None:
        """Watches the folder, and queues all its lease files. Raises OSError."""
        handler = _Names(self._queue.put)
        self._seen = _identity(self.folder)
        try:
            self._observer = _observe(Observer(), handler, self.folder)
        except FileNotFoundError:
            raise
        except OSError:  # no inotify watches left: poll every second
            self._observer = _observe(PollingObserver(), handler, self.folder)
        for name in {*(path.name for path in self.folder.glob("*" + SUFFIX)), *self._files}:
            self._queue.put(name)

    def _rewatch(self) -> None:
        """Watches the folder again if it was replaced."""
        found = _identity(self.folder)
        if found == self._seen and (self._observer is None or is_watching(self._observer)):
            return
        self._set_trouble(_FOLDER, "" if found else f"{self.folder} is gone; the last leases stay in force")
        if found is None:
            self._seen = None
            return
        try:
            if self._observer is not None:
                self._observer.stop()
            self._watch()
        except OSError:
            self._seen = None  # removed again, or not readable yet

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
        self._queue.put(None)

    def _run(self) -> None:
        due: dict[str, tuple[float, int]] = {}
        first = True
        checked = time.monotonic()
        while True:
            names = self._next(due)
            if names is None:
                return
            if time.monotonic() - checked >= FOLDER_SECONDS:
                self._rewatch()
                checked = time.monotonic()
            if SETTINGS in names:
                self._settings()
            now = time.monotonic()
            for name in names:
                if name.endswith(_TEMPORARY):
                    due.setdefault(name.removesuffix("-tmp"), (now + RENAME_SECONDS, 0))
            reads = [(name, 0) for name in names if name.endswith(SUFFIX)]
            reads += [(name, tries) for name, (at, tries) in due.items() if at <= now and name not in names]
            changed = False
            for name, tries in reads:
                due.pop(name, None)
                done, new = self._read(name, last=tries >= len(RETRIES))
                changed = changed or new
                if not done:
                    due[name] = (now + RETRIES[min(tries, len(RETRIES) - 1)], tries + 1)
            if changed or first:
                first = False
                self._report(self._facts())
            # After the first report, which clears earlier trouble.
            if (text := "; ".join(self._bad.values())) != self._reported_trouble:
                self._reported_trouble = text
                self._trouble(text)

    def _next(self, due: Mapping[str, tuple[float, int]]) -> set[str] | None:
        """The names of changed files, until the queue is empty; empty if a retry is due; None to end."""
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

    def _read(self, name: str, *, last: bool) -> tuple[bool, bool]:
        """Reads one file. Returns whether no retry is needed, and whether its leases changed."""
        before = self._files.get(name, ())
        try:
            self._files[name] = read_leases(self.folder / name)
            self._set_trouble(name, "")
            return True, self._files[name] != before
        except FileNotFoundError:
            # The file is missing for an instant between two renames. If its folder is missing, its leases are kept.
            if last and (self._seen is None or _identity(self.folder) != self._seen):
                return False, False
            if last:
                self._files.pop(name, None)
                self._set_trouble(name, "")
            return last, last and bool(before)
        except (OSError, InvalidLeaseFile) as error:
            self._set_trouble(name, f"{name} cannot be read ({error}); its last good content stays in force")
            # Retried until it can be read: a change of permissions causes no event.
            return False, False

    def _set_trouble(self, name: str, text: str) -> None:
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
    """The device and inode of a folder; None if it does not exist."""
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
    """Passes on the names of lease files and VirtualBox.xml; VirtualBox also writes logs into the folder."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            name = Path(path if isinstance(path, str) else path.decode(errors="replace")).name
            if name.endswith((SUFFIX, _TEMPORARY)) or name == SETTINGS:
                self._put(name)
