"""The watcher of lease files, on a real folder, with the very steps in which VBoxNetDHCP writes."""

from __future__ import annotations

import errno
import queue
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.polling import PollingObserver

from vmdns.sources import lease_watcher as leases
from vmdns.sources.lease_file import SUFFIX
from vmdns.sources.lease_watcher import LeaseWatcher
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
    """A folder, its watcher, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: queue.Queue[Mapping[str, Lease]] = queue.Queue()
        self.troubles: queue.Queue[str] = queue.Queue()
        self.settings: queue.Queue[None] = queue.Queue()
        self.watcher = LeaseWatcher(folder, self.reports.put, self.troubles.put, lambda: self.settings.put(None))

    def start(self) -> set[str]:
        self.watcher.start()
        return self.next()

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
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "home").mkdir()
    made = Watched(tmp_path / "home")
    yield made
    made.watcher.stop()


def test_the_first_report_says_what_is_there(watched: Watched) -> None:
    watched.write(content(ONE))
    watched.write(content(TWO), "HostInterfaceNetworking-vboxnet0")
    assert watched.start() == {"10.0.2.4", "10.0.2.5"}


def test_the_first_report_of_an_empty_folder_says_that_nothing_is_there(watched: Watched) -> None:
    assert watched.start() == set()


def test_a_new_lease_and_a_lease_less(watched: Watched) -> None:
    watched.start()
    watched.write(content(ONE))
    watched.until({"10.0.2.4"})
    watched.write(content(TWO, ONE))
    watched.until({"10.0.2.4", "10.0.2.5"})
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})
    assert watched.troubles.empty()


def test_a_renewed_lease_is_reported(watched: Watched) -> None:
    watched.write(content(ONE, issued=1_700_000_000))
    watched.start()
    watched.write(content(ONE, issued=1_700_000_300))
    (renewed,) = watched.reports.get(timeout=PATIENCE).values()
    assert (renewed.issued, renewed.until) == (1_700_000_300.0, 1_700_000_900.0)


def test_a_mac_with_two_leases_keeps_both_and_one_address_once(watched: Watched) -> None:
    again = ("08:00:27:00:00:01", "10.0.2.9")
    watched.write(content(ONE, again, ONE))
    assert watched.start() == {"10.0.2.4", "10.0.2.9"}


def test_the_same_content_again_is_not_reported(watched: Watched) -> None:
    watched.write(content(ONE))
    watched.start()
    for _ in range(5):
        watched.write(content(ONE))
    watched.write(content(TWO), "other")
    assert watched.next() == {"10.0.2.4", "10.0.2.5"}
    assert watched.reports.empty()


def test_a_damaged_file_keeps_its_last_good_content_and_is_told_once(watched: Watched) -> None:
    watched.write(content(ONE))
    watched.start()
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


def test_trouble_at_the_start_is_told_after_the_first_report(watched: Watched) -> None:
    watched.write(DAMAGED)
    watched.watcher = LeaseWatcher(
        watched.folder, watched.reports.put, lambda _: watched.troubles.put(str(watched.reports.qsize())), lambda: None
    )
    watched.start()
    assert watched.troubles.get(timeout=PATIENCE) == "1"


def test_a_file_that_was_half_written_is_read_when_it_is_whole(watched: Watched) -> None:
    watched.start()
    whole, path = content(ONE, TWO), watched.folder / f"lab{SUFFIX}"
    with path.open("wb", buffering=0) as half:
        half.write(whole[:100])
        assert watched.troubles.get(timeout=PATIENCE)
        half.write(whole[100:])
    watched.until({"10.0.2.4", "10.0.2.5"})


def test_a_file_that_is_removed_takes_its_leases_along(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RETRIES", (0.0, 0.0))
    watched.write(content(ONE))
    watched.write(content(TWO), "other")
    watched.start()
    (watched.folder / f"lab{SUFFIX}").unlink()
    watched.until({"10.0.2.5"})


def test_between_its_two_renames_a_file_is_not_gone(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RETRIES", (3600.0,))
    watched.write(content(ONE))
    watched.start()
    path = watched.folder / f"lab{SUFFIX}"
    path.replace(watched.folder / f"lab{SUFFIX}-prev")
    watched.write(content(TWO), "other")  # what comes next was seen after the first rename
    assert watched.next() == {"10.0.2.4", "10.0.2.5"}
    path.write_bytes(content(("08:00:27:00:00:01", "10.0.2.7")))
    watched.until({"10.0.2.7", "10.0.2.5"})


def test_the_settings_file_is_told_and_the_logs_are_not(watched: Watched) -> None:
    watched.start()
    for name in ("VBoxSVC.log", f"lab{SUFFIX}-tmp", "lab-Dhcpd.log", "lab-Dhcpd.config", "x.xml"):
        (watched.folder / name).write_bytes(content(ONE))
    (watched.folder / "VirtualBox.xml-tmp").write_bytes(b"<VirtualBox/>")
    (watched.folder / "VirtualBox.xml-tmp").replace(watched.folder / "VirtualBox.xml")
    watched.settings.get(timeout=PATIENCE)
    watched.write(content(TWO))
    assert watched.next() == {"10.0.2.5"}
    assert watched.troubles.empty()


@pytest.mark.skipif(sys.platform == "win32", reason="links to devices")
def test_what_is_no_file_is_told_and_harms_no_other(watched: Watched) -> None:
    (watched.folder / f"zero{SUFFIX}").symlink_to("/dev/zero")
    (watched.folder / f"folder{SUFFIX}").mkdir()
    watched.write(content(ONE))
    assert watched.start() == {"10.0.2.4"}
    assert "not a regular file" in watched.troubles.get(timeout=PATIENCE)


def test_without_watches_left_the_folder_is_looked_at_again_and_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def schedule(self, *_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(leases, "Observer", Full)
    monkeypatch.setattr(leases, "PollingObserver", lambda: PollingObserver(timeout=0.02))
    watched.start()
    watched.write(content(ONE))
    watched.until({"10.0.2.4"})


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watched(tmp_path / "none").watcher.start()


def test_a_new_file_is_read_even_if_its_rename_is_told_late(tmp_path: Path) -> None:
    """watchdog holds back the first half of a rename until it has the second: up to half a second."""
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    watcher = LeaseWatcher(tmp_path, lambda facts: found.put(list(facts)), lambda _: None, lambda: None)
    watcher._thread.start()  # without an observer: what it would tell is told here
    watcher._queue.put("")
    assert found.get(timeout=10) == []
    (tmp_path / f"N{SUFFIX}").write_bytes(content(ONE))
    watcher._queue.put("N-Dhcpd.leases-tmp")
    assert found.get(timeout=10) == ["lease:N 080027000001 10.0.2.4"]
    watcher.stop()


def test_a_folder_that_is_replaced_is_read_anew(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FOLDER_SECONDS", 0.02)
    watched.write(content(ONE))
    watched.start()
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    assert watched.troubles.get(timeout=PATIENCE).endswith("is gone; the last leases stay in force")
    watched.folder.mkdir()
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})
    watched.write(content(ONE, TWO))  # the new folder is watched, not only read
    watched.until({"10.0.2.4", "10.0.2.5"})
    assert watched.troubles.get(timeout=PATIENCE) == ""


def test_a_folder_that_is_removed_and_made_again_is_watched(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks, so that it may have the same inode."""
    monkeypatch.setattr(leases, "FOLDER_SECONDS", 0.3)
    watched.write(content(ONE))
    watched.start()
    shutil.rmtree(watched.folder)
    watched.folder.mkdir()
    watched.write(content(ONE, TWO))
    watched.until({"10.0.2.4", "10.0.2.5"})
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})


def test_a_folder_that_went_away_takes_no_leases_along(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FOLDER_SECONDS", 0.02)
    monkeypatch.setattr(leases, "RETRIES", (0.0, 0.0))
    watched.write(content(ONE))
    watched.start()
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    watched.troubles.get(timeout=PATIENCE)
    away.rename(watched.folder)
    assert watched.troubles.get(timeout=PATIENCE) == ""
    assert watched.reports.empty()
    watched.write(content(TWO))
    watched.until({"10.0.2.5"})


@pytest.mark.skipif(sys.platform == "win32", reason="a file is locked otherwise there")
def test_what_could_not_be_read_is_read_once_it_can(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a file whose rights change, of which no event tells. The reading is played: root may read all."""
    allowed = threading.Event()
    real = leases.read_leases

    def read(path: Path, *known: Any) -> tuple[Any, ...]:
        if not allowed.is_set():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *known)

    monkeypatch.setattr(leases, "RETRIES", (0.0, 0.02))
    monkeypatch.setattr(leases, "read_leases", read)
    watched.write(content(ONE))
    watched.folder.joinpath("VirtualBox.xml").write_bytes(b"<VirtualBox/>")
    watched.watcher.start()
    assert "Permission denied" in watched.troubles.get(timeout=PATIENCE)
    allowed.set()
    watched.until({"10.0.2.4"})
    assert watched.troubles.get(timeout=PATIENCE) == ""


def test_at_no_moment_of_being_written_are_leases_lost(watched: Watched) -> None:
    """A file that grows octet by octet, as a writer without a rename would write it: its last good content stays."""
    watched.write(content(ONE))
    watched.start()
    whole, path = content(ONE, TWO), watched.folder / f"lab{SUFFIX}"
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
    assert watched.next() == {"10.0.2.4", "10.0.2.5"}  # the first report after that of the start
