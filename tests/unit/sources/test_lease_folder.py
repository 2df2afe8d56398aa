"""The worker on a real folder of lease files, with the very steps in which VBoxNetDHCP writes."""

from __future__ import annotations

import errno
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vmdns.sources import file_watcher, lease_file
from vmdns.sources.lease_file import SUFFIX
from vmdns.sources.worker import Worker, WorkerSources
from vmdns.state.facts import Lease

PATIENCE = 10.0  # seconds until a report that does not come is a failure


def content(*pairs: tuple[str, str], issued: int = 1_700_000_000) -> bytes:
    entries = "".join(
        f'<Lease mac="{mac}" network="0.0.0.0" state="acked"><Address value="{address}"/>'
        f'<Time issued="{issued}" expiration="600"/></Lease>'
        for mac, address in pairs
    )
    return f'<?xml version="1.0"?>\n<Leases version="1.0">{entries}</Leases>\n'.encode()


ONE, TWO = ("08:00:27:00:00:01", "10.0.2.4"), ("08:00:27:00:00:02", "10.0.2.5")
DAMAGED = content(ONE, TWO)[:150]


class Watched:
    """A folder, the worker that reads it, and what that reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: queue.Queue[Mapping[str, Lease]] = queue.Queue()
        self.troubles: queue.Queue[str] = queue.Queue()
        self.looks: queue.Queue[None] = queue.Queue()
        self._before: Mapping[str, Lease] | None = None
        sources = WorkerSources(host=lambda output: self)  # type: ignore[arg-type,return-value]
        self.worker = Worker({}, self, sources)  # type: ignore[arg-type]
        self.worker._reader = self  # type: ignore[assignment]

    def report(self, source: str, facts: Mapping[str, Lease]) -> None:
        if facts != self._before:
            self.reports.put(facts)
        self._before = facts

    def report_trouble(self, source: str, text: str) -> None:
        self.troubles.put(text)

    def request_look(self) -> None:
        """Stands for the reader of VirtualBox."""
        self.looks.put(None)

    def begin(self) -> set[str]:
        """The addresses of the first report."""
        self.worker.start()
        return self.next()

    def start(self) -> None:
        """Stands for the host."""

    def write(self, data: bytes, network: str = "lab") -> None:
        """As VBoxNetDHCP does: a new file beside it, the old one to -prev, the new one into its place."""
        name = network + SUFFIX
        (self.folder / f"{name}-tmp").write_bytes(data)
        if (self.folder / name).exists():
            (self.folder / name).replace(self.folder / f"{name}-prev")
        (self.folder / f"{name}-tmp").replace(self.folder / name)

    def next(self) -> set[str]:
        """The addresses of the next report."""
        return {one.address for one in self.reports.get(timeout=PATIENCE).values()}

    def until(self, wanted: set[str]) -> None:
        """Takes reports until one says this; the last of them says no more and no less."""
        while self.next() != wanted:
            pass


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("VBOX_USER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(file_watcher, "RETRY_SECONDS", 0.02)
    made = Watched(tmp_path / "home")
    yield made
    made.worker._files.stop()


def test_the_first_report_has_everything(watched: Watched) -> None:
    again = ("08:00:27:00:00:01", "10.0.2.9")
    watched.write(content(ONE, again, ONE))
    watched.write(content(TWO), "HostInterfaceNetworking-vboxnet0")
    assert watched.begin() == {"10.0.2.4", "10.0.2.5", "10.0.2.9"}


def test_a_new_lease_and_a_lease_less(watched: Watched) -> None:
    assert watched.begin() == set()
    watched.write(content(ONE))
    watched.until({"10.0.2.4"})
    watched.write(content(TWO, ONE))
    watched.until({"10.0.2.4", "10.0.2.5"})
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})
    assert watched.troubles.empty()


def test_a_renewed_lease_is_reported(watched: Watched) -> None:
    watched.write(content(ONE, issued=1_700_000_000))
    watched.begin()
    watched.write(content(ONE, issued=1_700_000_300))
    (renewed,) = watched.reports.get(timeout=PATIENCE).values()
    assert (renewed.issued, renewed.until) == (1_700_000_300.0, 1_700_000_900.0)


def test_a_damaged_file_keeps_its_last_good_content_and_is_reported_once(watched: Watched) -> None:
    watched.write(content(ONE))
    watched.begin()
    watched.write(DAMAGED)
    trouble = watched.troubles.get(timeout=PATIENCE)
    assert trouble.startswith(f"lab{SUFFIX} cannot be read (")
    assert trouble.endswith("its last good content stays in force")
    watched.write(content(TWO), "other")
    watched.until({"10.0.2.4", "10.0.2.5"})
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})
    assert watched.troubles.get(timeout=PATIENCE) == ""
    assert watched.troubles.empty()


def test_a_file_that_is_removed_takes_its_leases_along(watched: Watched) -> None:
    watched.write(content(ONE))
    watched.write(content(TWO), "other")
    watched.begin()
    (watched.folder / f"lab{SUFFIX}").unlink()
    watched.until({"10.0.2.5"})


def test_between_its_two_renames_a_file_is_not_gone(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watcher, "RETRY_SECONDS", 3600.0)
    watched.write(content(ONE))
    watched.begin()
    path = watched.folder / f"lab{SUFFIX}"
    path.replace(watched.folder / f"lab{SUFFIX}-prev")
    watched.write(content(TWO), "other")  # what comes next was seen after the first rename
    assert watched.next() == {"10.0.2.4", "10.0.2.5"}
    path.write_bytes(content(("08:00:27:00:00:01", "10.0.2.7")))
    watched.until({"10.0.2.7", "10.0.2.5"})


def test_virtualbox_xml_has_virtualbox_read_again(watched: Watched) -> None:
    watched.begin()
    (watched.folder / "VirtualBox.xml-tmp").write_bytes(b"<VirtualBox/>")
    (watched.folder / "VirtualBox.xml-tmp").replace(watched.folder / "VirtualBox.xml")
    watched.looks.get(timeout=PATIENCE)
    watched.write(content(TWO))
    assert watched.next() == {"10.0.2.5"}
    assert watched.troubles.empty()


@pytest.mark.skipif(sys.platform == "win32", reason="links to devices")
def test_what_is_no_file_is_reported_and_harms_no_other(watched: Watched) -> None:
    (watched.folder / f"zero{SUFFIX}").symlink_to("/dev/zero")
    (watched.folder / f"folder{SUFFIX}").mkdir()
    watched.write(content(ONE))
    assert watched.begin() == {"10.0.2.4"}
    assert "not a regular file" in watched.troubles.get(timeout=PATIENCE)


def test_a_folder_that_is_made_later_or_replaced_is_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watcher, "LOOK_SECONDS", 0.02)
    watched.folder.rmdir()
    watched.begin()
    watched.folder.mkdir()
    watched.write(content(ONE))
    watched.until({"10.0.2.4"})
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    assert watched.troubles.get(timeout=PATIENCE).endswith("is gone; the last leases stay in force")
    assert watched.reports.empty()
    watched.folder.mkdir()
    watched.write(content(ONE, TWO))
    watched.until({"10.0.2.4", "10.0.2.5"})
    watched.write(content(TWO))  # the new folder is watched, not only read
    watched.until({"10.0.2.5"})
    assert watched.troubles.get(timeout=PATIENCE) == ""


def test_what_could_not_be_read_is_read_once_it_can(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a file whose rights change, of which no event tells. The reading is played: root may read all."""
    allowed = threading.Event()
    real = lease_file.read_leases

    def read(path: Path) -> tuple[Any, ...]:
        if not allowed.is_set():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(lease_file, "read_leases", read)
    watched.begin()
    watched.write(content(ONE))
    assert "Permission denied" in watched.troubles.get(timeout=PATIENCE)
    allowed.set()
    watched.until({"10.0.2.4"})
    assert watched.troubles.get(timeout=PATIENCE) == ""


def test_at_no_moment_of_being_written_are_leases_lost(watched: Watched) -> None:
    """A file that grows octet by octet, as a writer without a rename would write it: its last good content stays."""
    watched.write(content(ONE))
    watched.begin()
    whole, path = content(ONE, TWO), watched.folder / f"lab{SUFFIX}"
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
    assert watched.next() == {"10.0.2.4", "10.0.2.5"}  # the first report after that of the start
