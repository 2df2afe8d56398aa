"""The worker process: reads VirtualBox, its lease files and the host's network (messages: worker_protocol.py).

A process of its own because an XPCOM client whose VBoxSVC died can never connect again, because a crash in
VirtualBox's libraries must not end the server, and because reading many VMs holds the interpreter's lock.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from vmdns.sources.installation import Installation, find, user_home
from vmdns.sources.lease_watcher import LeaseWatcher
from vmdns.sources.reader import Reader, ReaderUnavailable, VirtualBoxLost, VirtualBoxUpgraded, WrongHome
from vmdns.sources.worker_protocol import WorkerOutput, open_streams

PATIENT_FAILURES = 4  # takes about ten seconds with the growing pauses
ABSENT_SECONDS = 5.0  # between checks for an installation
UPGRADE_SECONDS = 8.0  # VBoxSVC ends 5 s after its last client: wait for that after an upgrade and for another home
BEAT_SECONDS = 5.0
STUCK_SECONDS = 15.0


def open_reader(
    installation: Installation, choice: str, home: str | None, interval: float, failures: int = 0
) -> tuple[Reader, str]:
    """Opens the chosen reader. Returns it, and why the better one is not used.

    failures is how often in a row no reader could be opened: a VBoxSVC that just died may be back soon, so VBoxManage
    replaces an API that loads only after several failures. Raises `ReaderUnavailable` where no reader works here,
    `VirtualBoxLost` where VirtualBox does not answer.
    """
    why = ""
    if choice in ("auto", "api"):
        from vmdns.sources.virtualbox_reader import ApiReader

        try:
            reader = ApiReader(installation, os.environ, interval)
        except (ReaderUnavailable, VirtualBoxLost) as error:
            if choice == "api" or (isinstance(error, VirtualBoxLost) and failures < PATIENT_FAILURES):
                raise
            why = str(error)
        else:
            named = os.environ.get("VBOX_USER_HOME")
            if named and not is_same_folder(named, reader.found.home):
                reader.close()  # an open connection keeps that VBoxSVC alive
                raise WrongHome(named, reader.found.home)
            return reader, ""
    from vmdns.sources.vboxmanage_reader import VBoxManageReader

    return VBoxManageReader(installation, os.environ, home), why


def is_same_folder(one: str, other: str) -> bool:
    """Whether both paths are the same folder; false where one of them is missing."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class HostWatcher(Protocol):
    """Reports the host's addresses and neighbours from threads of its own."""

    def start(self) -> None:
        """Reports everything, then each change."""

    def look(self, source: str) -> None:
        """Reads this source now, and confirms it afterwards."""


def open_host_watcher(output: WorkerOutput) -> HostWatcher:
    """The watcher of the host's addresses and neighbours for this system."""

    if sys.platform == "linux":
        from vmdns.sources.netlink import NetlinkWatcher

        return NetlinkWatcher(output.report, output.report_trouble, output.confirm_look)
    from vmdns.sources.host_poll import PollWatcher

    return PollWatcher(output.report, output.report_trouble, output.confirm_look)


class WorkerSources(NamedTuple):
    """What a worker reads: the VirtualBox and the network of this computer, or simulated ones (vmdns/demo).

    If lease_files is false, the host watcher reports leases too.
    """

    installation: Callable[[Mapping[str, str]], Installation | None] = find
    reader: Callable[[Installation, str, str | None, float, int], tuple[Reader, str]] = open_reader
    host: Callable[[WorkerOutput], HostWatcher] = open_host_watcher
    lease_files: bool = True


THIS_COMPUTER = WorkerSources()


class VirtualBoxSession:
    """Reads VirtualBox and its lease files. options: reader, home (or null), interval, failures."""

    def __init__(
        self, options: Mapping[str, Any], output: WorkerOutput, sources: WorkerSources = THIS_COMPUTER
    ) -> None:
        self._sources = sources
        self._options = options
        self._output = output
        self._reader: Reader | None = None
        self._watcher: LeaseWatcher | None = None

    def run(self) -> None:
        """Reads until it raises `VirtualBoxLost` or `ReaderUnavailable`."""
        installation = self._find()
        home = self._options["home"]
        if home and not os.path.isdir(home):  # VirtualBox would create the folder
            raise VirtualBoxLost(f"there is no folder {home}, which vbox_home names; it is read once it is there")
        self._watch_leases(user_home(os.environ), report_errors=False)  # they change without VBoxSVC too
        self._reader, detail = self._sources.reader(
            installation, *(self._options[name] for name in ("reader", "home", "interval", "failures"))
        )
        self._output.send({"found": self._reader.found._asdict(), "detail": detail})
        threading.Thread(target=_send_beats, args=(self._output, self._reader), daemon=True).start()
        self._watch_leases(Path(self._reader.found.home), report_errors=True)
        try:
            self._output.report("virtualbox", self._reader.look())
            self._output.report_changes("virtualbox", self._reader.wait(0))
            self._output.send({"settled": True})
            while True:
                self._output.report_changes("virtualbox", self._reader.wait(self._options["interval"]))
        finally:
            self._reader.close()

    def request_look(self) -> None:
        """Has VirtualBox read soon."""
        if self._reader is not None:
            self._reader.request_look()
        self._output.confirm_look("virtualbox")

    def _find(self) -> Installation:
        """Waits for an installation of VirtualBox."""
        count = 0
        while (found := self._sources.installation(os.environ)) is None:
            self._output.send({"beat": count} if count else {"absent": True})
            count += 1
            time.sleep(ABSENT_SECONDS)
        return found

    def _watch_leases(self, home: Path, *, report_errors: bool) -> None:
        """Watches the lease files in that folder."""
        if not self._sources.lease_files:
            return
        if self._watcher is not None:
            if self._watcher.folder == home:
                return
            self._watcher.stop()
        self._watcher = LeaseWatcher(
            home,
            partial(self._output.report, "leases"),
            partial(self._output.report_trouble, "leases"),
            self._request_network_look,
        )
        try:
            self._watcher.start()
        except OSError as error:
            self._watcher = None
            if report_errors:
                self._output.report_trouble("leases", f"the folder of lease files cannot be watched ({error})")

    def _request_network_look(self) -> None:
        if self._reader is not None:
            self._reader.request_network_look()


def _send_beats(output: WorkerOutput, reader: Reader) -> None:
    """Sends a beat while the reader is alive; without beats the server replaces this process."""
    count = 0
    while True:
        time.sleep(BEAT_SECONDS)
        if time.monotonic() - getattr(reader, "moved", time.monotonic()) < STUCK_SECONDS:
            count += 1
            output.send({"beat": count})


def _serve_requests(requests: IO[bytes], look: Callable[[str], None]) -> None:
    """Serves requests, and ends this process when its input ends because the server ended."""
    for line in requests:
        with suppress(ValueError, KeyError, TypeError):
            look(json.loads(line)["look"])
    os._exit(0)


def run(
    requests: IO[bytes], output: WorkerOutput, options: Mapping[str, Any], sources: WorkerSources = THIS_COMPUTER
) -> None:
    """Reads until the server or VirtualBox has ended, then ends this process."""
    if options.get("home"):
        os.environ["VBOX_USER_HOME"] = options["home"]
    output.send({"pid": os.getpid()})
    watcher = sources.host(output)
    work = VirtualBoxSession(options, output, sources)

    def look(source: str) -> None:
        work.request_look() if source == "virtualbox" else watcher.look(source)

    threading.Thread(target=_serve_requests, args=(requests, look), daemon=True).start()
    watcher.start()
    pause = options["pause"]
    try:
        work.run()
    except Exception as error:
        output.send({"lost": str(error) or type(error).__name__})
        if isinstance(error, VirtualBoxUpgraded | WrongHome):
            pause = max(pause, UPGRADE_SECONDS)
    # The other watchers continue meanwhile. os._exit, because the libraries of a dead VBoxSVC do not shut down cleanly.
    time.sleep(pause)
    os._exit(0)


def main(sources: WorkerSources = THIS_COMPUTER) -> None:
    """Runs the worker with its standard input and output."""
    requests, output = open_streams()
    run(requests, output, json.loads(requests.readline()), sources)


if __name__ == "__main__":
    main()
