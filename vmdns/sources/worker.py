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
from vmdns.sources.reader import Lost, OtherHome, Reader, Unavailable, Upgraded
from vmdns.sources.worker_protocol import WorkerOutput, open_streams

PATIENT_FAILURES = 4  # with growing pauses some ten seconds
ABSENT_SECONDS = 5.0  # between looks for a VirtualBox that is not there
UPGRADE_SECONDS = 8.0  # VBoxSVC ends 5 s after its last client: an upgrade or another home needs that it does
BEAT_SECONDS = 5.0
STUCK_SECONDS = 15.0


def open_reader(
    installation: Installation, choice: str, home: str | None, interval: float, failures: int = 0
) -> tuple[Reader, str]:
    """The reader that was chosen, and why not the better one.

    failures is how often in a row a reader could not be opened: a VBoxSVC that just died may be back in a moment,
    so VBoxManage takes over from an API that loads only when it goes on failing. Raises `Unavailable` where none can
    work here, `Lost` where VirtualBox does not answer.
    """
    why = ""
    if choice in ("auto", "api"):
        from vmdns.sources.virtualbox_reader import ApiReader

        try:
            reader = ApiReader(installation, os.environ, interval)
        except (Unavailable, Lost) as error:
            if choice == "api" or (isinstance(error, Lost) and failures < PATIENT_FAILURES):
                raise
            why = str(error)
        else:
            named = os.environ.get("VBOX_USER_HOME")
            if named and not is_same_folder(named, reader.found.home):
                reader.close()  # else it would keep that VBoxSVC alive
                raise OtherHome(named, reader.found.home)
            return reader, ""
    from vmdns.sources.vboxmanage_reader import VBoxManageReader

    return VBoxManageReader(installation, os.environ, home), why


def is_same_folder(one: str, other: str) -> bool:
    """Whether both paths lead to the same folder; false where one of them is missing."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


class HostWatcher(Protocol):
    """Reports the host's addresses and neighbours from threads of its own."""

    def start(self) -> None:
        """Reports everything, then each change."""

    def look(self, source: str) -> None:
        """Looks at this source at once, and reports `looked` afterwards."""


def watch_host(output: WorkerOutput) -> HostWatcher:
    """The watcher of the host's addresses and neighbours that this system can have."""

    if sys.platform == "linux":
        from vmdns.sources.netlink import NetlinkWatcher

        return NetlinkWatcher(output.report, output.report_trouble, output.confirm_look)
    from vmdns.sources.host_poll import PollWatcher

    return PollWatcher(output.report, output.report_trouble, output.confirm_look)


class Box(NamedTuple):
    """What a worker reads: the VirtualBox and the network of this computer, or simulated ones (vmdns/demo).

    Where lease_files is false, the watcher of the host reports leases as well.
    """

    installation: Callable[[Mapping[str, str]], Installation | None] = find
    reader: Callable[[Installation, str, str | None, float, int], tuple[Reader, str]] = open_reader
    host: Callable[[WorkerOutput], HostWatcher] = watch_host
    lease_files: bool = True


THIS_COMPUTER = Box()


class Work:
    """What the worker does until VirtualBox is lost. options: reader, home (or null), interval, failures."""

    def __init__(self, options: Mapping[str, Any], output: WorkerOutput, box: Box = THIS_COMPUTER) -> None:
        self._box = box
        self._options = options
        self._output = output
        self._reader: Reader | None = None
        self._watcher: LeaseWatcher | None = None

    def run(self) -> None:
        """Reads for ever. Raises `Lost` or `Unavailable`."""
        installation = self._find()
        home = self._options["home"]
        if home and not os.path.isdir(home):  # VirtualBox would create it
            raise Lost(f"there is no folder {home}, which vbox_home names; it is read once it is there")
        self._watch_leases(user_home(os.environ), at_last=False)  # which change without VBoxSVC as well
        self._reader, detail = self._box.reader(
            installation, *(self._options[name] for name in ("reader", "home", "interval", "failures"))
        )
        self._output.send({"found": self._reader.found._asdict(), "detail": detail})
        threading.Thread(target=_beat, args=(self._output, self._reader), daemon=True).start()
        self._watch_leases(Path(self._reader.found.home), at_last=True)
        try:
            self._output.report("virtualbox", self._reader.look())
            self._output.report_changes("virtualbox", self._reader.wait(0))
            self._output.send({"settled": True})
            while True:
                self._output.report_changes("virtualbox", self._reader.wait(self._options["interval"]))
        finally:
            self._reader.close()

    def wake(self) -> None:
        """Looks at VirtualBox soon; what it finds comes as ever."""
        if self._reader is not None:
            self._reader.wake()
        self._output.confirm_look("virtualbox")

    def _find(self) -> Installation:
        """The installation, once there is one."""
        count = 0
        while (found := self._box.installation(os.environ)) is None:
            self._output.send({"beat": count} if count else {"absent": True})
            count += 1
            time.sleep(ABSENT_SECONDS)
        return found

    def _watch_leases(self, home: Path, *, at_last: bool) -> None:
        """Watches the lease files in that folder, unless it does already."""
        if not self._box.lease_files:
            return
        if self._watcher is not None:
            if self._watcher.folder == home:
                return
            self._watcher.stop()
        self._watcher = LeaseWatcher(
            home,
            partial(self._output.report, "leases"),
            partial(self._output.report_trouble, "leases"),
            self._nudge,
        )
        try:
            self._watcher.start()
        except OSError as error:
            self._watcher = None
            if at_last:
                self._output.report_trouble("leases", f"the folder of lease files cannot be watched ({error})")

    def _nudge(self) -> None:
        if self._reader is not None:
            self._reader.nudge()


def _beat(output: WorkerOutput, reader: Reader) -> None:
    """A sign of life while the reader moves; without one the server ends this process and starts another."""
    count = 0
    while True:
        time.sleep(BEAT_SECONDS)
        if time.monotonic() - getattr(reader, "moved", time.monotonic()) < STUCK_SECONDS:
            count += 1
            output.send({"beat": count})


def _follow_parent(requests: IO[bytes], look: Callable[[str], None]) -> None:
    """Hears wishes, and ends this process when its input ends: the server is gone, however it went."""
    for line in requests:
        with suppress(ValueError, KeyError, TypeError):
            look(json.loads(line)["look"])
    os._exit(0)


def run(requests: IO[bytes], output: WorkerOutput, options: Mapping[str, Any], box: Box = THIS_COMPUTER) -> None:
    """Reads until the server or VirtualBox has ended, then ends this process."""
    if options.get("home"):
        os.environ["VBOX_USER_HOME"] = options["home"]
    output.send({"pid": os.getpid()})
    watcher = box.host(output)
    work = Work(options, output, box)

    def look(source: str) -> None:
        work.wake() if source == "virtualbox" else watcher.look(source)

    threading.Thread(target=_follow_parent, args=(requests, look), daemon=True).start()
    watcher.start()
    pause = options["pause"]
    try:
        work.run()
    except Exception as error:
        output.send({"lost": str(error) or type(error).__name__})
        if isinstance(error, Upgraded | OtherHome):
            pause = max(pause, UPGRADE_SECONDS)
    # The other watchers go on meanwhile. Then out at once: libraries of a dead VBoxSVC do not end in order.
    time.sleep(pause)
    os._exit(0)


def main(box: Box = THIS_COMPUTER) -> None:
    """Runs the worker with its standard input and output."""
    requests, output = open_streams()
    run(requests, output, json.loads(requests.readline()), box)


if __name__ == "__main__":
    main()
