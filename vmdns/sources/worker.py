"""The worker process: reads VirtualBox, its lease files and the host's network, and writes what it finds.

A process of its own because an XPCOM client can never connect again once VBoxSVC died, because a crash in
VirtualBox's libraries must not take the server along, and because reading 1,000 VMs holds the interpreter's lock.
Its input is a JSON line of options, then a line for each wish, and its end means that the server is gone:

    {"look": SOURCE}                              look at it at once; `looked` follows what was found

Its output is a JSON line a message:

    {"pid": N}                                    this process, first of all
    {"absent": true}                              there is no VirtualBox here; the worker waits for one
    {"found": {"version": ..., "reader": ..., "home": ...}, "detail": why not the other reader}
    {"put": SOURCE, "facts": {key: fact}}         everything this source sees now
    {"patch": SOURCE, "facts": {key: fact|null}}  what changed; both in several lines where there is much to tell, the
                                                  first without "part": n, all but the last with "more": true
    {"settled": true}                             everything was told once
    {"trouble": SOURCE, "text": ...}              '' once it is over
    {"looked": SOURCE}                            the look that was asked for is over
    {"beat": n}                                   the reader still moves
    {"lost": text}                                the reader ended; the process follows after its pause
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from vmdns.sources.installation import Installation, find, user_home
from vmdns.sources.lease_watcher import LeaseWatcher
from vmdns.sources.reader import Lost, OtherHome, Reader, Unavailable, Upgraded
from vmdns.sources.report_diff import Told
from vmdns.state.facts import Fact, to_json

PATIENT_FAILURES = 4  # with growing pauses some ten seconds
ABSENT_SECONDS = 5.0  # between looks for a VirtualBox that is not there
UPGRADE_SECONDS = 8.0  # VBoxSVC ends 5 s after its last client: an upgrade or another home needs that it does
BEAT_SECONDS = 5.0
PORTION = 64  # facts in a line
PAUSE_SECONDS = 0.02
STUCK_SECONDS = 15.0


class Output:
    """Writes messages, a line each, from any thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Two, so that who waits comes next: a thread with much to tell would take a single one again at once.
        self._next, self._lock = threading.Lock(), threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._next:
            self._lock.acquire()
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            os._exit(0)  # the server is gone
        finally:
            self._lock.release()

    def facts(self, verb: str, source: str, facts: Mapping[str, Fact | None]) -> None:
        """In portions, with pauses: else whoever has something else to tell comes after all that fits into the pipe."""
        keys = list(facts)
        for part, at in enumerate(range(0, max(len(keys), 1), PORTION)):
            told = {key: one and to_json(one) for key in keys[at : at + PORTION] for one in (facts[key],)}
            message: dict[str, Any] = {verb: source, "facts": told}
            if part:
                message["part"] = part
                time.sleep(PAUSE_SECONDS)
            if at + PORTION < len(keys):
                message["more"] = True
            self.send(message)


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


def watch_host(output: Output) -> HostWatcher:
    """The watcher of the host's addresses and neighbours that this system can have."""

    def trouble(source: str, text: str) -> None:
        output.send({"trouble": source, "text": text})

    def looked(source: str) -> None:
        output.send({"looked": source})

    if sys.platform == "linux":
        from vmdns.sources.netlink import NetlinkWatcher

        return NetlinkWatcher(output.facts, trouble, looked)
    from vmdns.sources.host_poll import PollWatcher

    return PollWatcher(output.facts, trouble, looked)


class Box(NamedTuple):
    """What a worker reads: the VirtualBox and the network of this computer, or simulated ones (vmdns/demo).

    Where lease_files is false, the watcher of the host reports leases as well.
    """

    installation: Callable[[Mapping[str, str]], Installation | None] = find
    reader: Callable[[Installation, str, str | None, float, int], tuple[Reader, str]] = open_reader
    host: Callable[[Output], HostWatcher] = watch_host
    lease_files: bool = True


THIS_COMPUTER = Box()


class Work:
    """What the worker does until VirtualBox is lost. options: reader, home (or null), interval, failures."""

    def __init__(self, options: Mapping[str, Any], output: Output, box: Box = THIS_COMPUTER) -> None:
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
            self._output.facts("put", "virtualbox", self._reader.look())
            self._output.facts("patch", "virtualbox", self._reader.wait(0))
            self._output.send({"settled": True})
            while True:
                if changes := self._reader.wait(self._options["interval"]):
                    self._output.facts("patch", "virtualbox", changes)
        finally:
            self._reader.close()

    def wake(self) -> None:
        """Looks at VirtualBox soon; what it finds comes as ever."""
        if self._reader is not None:
            self._reader.wake()
        self._output.send({"looked": "virtualbox"})

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
            Told("leases", self._output.facts).tell,
            lambda text: self._output.send({"trouble": "leases", "text": text}),
            self._nudge,
        )
        try:
            self._watcher.start()
        except OSError as error:
            self._watcher = None
            if at_last:
                text = f"the folder of lease files cannot be watched ({error})"
                self._output.send({"trouble": "leases", "text": text})

    def _nudge(self) -> None:
        if self._reader is not None:
            self._reader.nudge()


def _beat(output: Output, reader: Reader) -> None:
    """A sign of life while the reader moves; without one the server ends this process and starts another."""
    count = 0
    while True:
        time.sleep(BEAT_SECONDS)
        if time.monotonic() - getattr(reader, "moved", time.monotonic()) < STUCK_SECONDS:
            count += 1
            output.send({"beat": count})


def _follow_parent(given: IO[bytes], look: Callable[[str], None]) -> None:
    """Hears wishes, and ends this process when its input ends: the server is gone, however it went."""
    for line in given:
        with suppress(ValueError, KeyError, TypeError):
            look(json.loads(line)["look"])
    os._exit(0)


def streams() -> tuple[IO[bytes], Output]:
    """Where lines come from and go to: standard input and output, taken away from everybody else in this process and
    below. vboxapi prints its errors to standard output, and a VBoxSVC that outlives this process would keep both."""
    given, output = os.fdopen(os.dup(0), "rb"), Output(os.fdopen(os.dup(1), "wb"))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return given, output


def run(
    given: IO[bytes],
    output: Output,
    options: Mapping[str, Any],
    box: Box = THIS_COMPUTER,
) -> None:
    """Works until the server is gone, or VirtualBox: does not return."""
    if options.get("home"):
        os.environ["VBOX_USER_HOME"] = options["home"]
    output.send({"pid": os.getpid()})
    watcher = box.host(output)
    work = Work(options, output, box)

    def look(source: str) -> None:
        work.wake() if source == "virtualbox" else watcher.look(source)

    threading.Thread(target=_follow_parent, args=(given, look), daemon=True).start()
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
    given, output = streams()
    run(given, output, json.loads(given.readline()), box)


if __name__ == "__main__":
    main()
