"""The worker process: reads VirtualBox, its lease files and the host's network.

A process of its own because an XPCOM client whose VBoxSVC died can never connect again, because a crash in
VirtualBox's libraries must not end the server, and because reading many VMs holds the interpreter's lock.

Messages are JSON objects, one a line, over pipes or a Unix socket (docs/design.md, "The worker process").
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from vmdns.sources.file_watcher import FileWatcher
from vmdns.sources.host_network import HostWatcher
from vmdns.sources.installation import Installation, find, user_home
from vmdns.sources.lease_file import BOOTPD_FILES, SUFFIX, LeaseFolder
from vmdns.sources.reader import Reader, ReaderUnavailable, VirtualBoxLost, check_version, wrong_home
from vmdns.state.facts import Fact, to_json

PATIENT_FAILURES = 4  # takes about ten seconds with the growing pauses
ABSENT_SECONDS = 5.0  # between checks for an installation
BEAT_SECONDS = 5.0
READ_SECONDS = 1.0  # the longest wait of a reader


class WorkerOutput:
    """Writes messages, one a line, from any thread. Ends the process when the server has ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._reports: dict[str, Mapping[str, Fact]] = {}
        self._beats = 0
        self._next_beat = 0.0

    def send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
        except OSError:
            os._exit(0)  # the server has ended

    def report(self, source: str, facts: Mapping[str, Fact]) -> None:
        """Sends everything that a source sees now: whole the first time, then only what changed."""
        before = self._reports.get(source)
        self._reports[source] = facts
        if before is None:
            self.send({"put": source, "facts": {key: to_json(fact) for key, fact in facts.items()}})
            return
        if facts is before:
            return
        # Most facts are the same objects as before, so identity is compared first.
        changed = (key for key, fact in facts.items() if (old := before.get(key)) is not fact and old != fact)
        changes = {key: to_json(facts[key]) for key in changed}
        gone = dict.fromkeys(key for key in before if key not in facts)
        if changes or gone:
            self.send({"patch": source, "facts": {**changes, **gone}})

    def report_trouble(self, source: str, text: str) -> None:
        """Sends why a source fails; '' once it works again."""
        self.send({"trouble": source, "text": text})

    def confirm_look(self, source: str) -> None:
        """Sends that a requested look is over."""
        self.send({"looked": source})

    def beat(self) -> None:
        """Sends now and then that the reader is alive; without beats the server replaces this process."""
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            self._beats += 1
            self.send({"beat": self._beats})


def open_streams() -> tuple[IO[bytes], WorkerOutput]:
    """Standard input and output, which nothing else in this process or its children uses from now on.

    vboxapi prints its errors to standard output, and a VBoxSVC that outlives this process would keep both open.
    """
    requests, output = os.fdopen(os.dup(0), "rb"), WorkerOutput(os.fdopen(os.dup(1), "wb"))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, output


def open_reader(
    installation: Installation, options: Mapping[str, Any], alive: Callable[[], object]
) -> tuple[Reader, str]:
    """Opens the chosen reader. Returns it, and why the better one is not used.

    options: reader, interval, and failures, how often in a row no reader could be opened: a VBoxSVC that just died may
    be back soon, so VBoxManage replaces an API that loads only after several failures. Raises `ReaderUnavailable` where
    no reader works here, `VirtualBoxLost` where VirtualBox does not answer.
    """
    why = ""
    if options["reader"] in ("auto", "api"):
        from vmdns.sources.virtualbox_reader import ApiReader

        try:
            reader = ApiReader(installation, options["interval"], alive)
        except (ReaderUnavailable, VirtualBoxLost) as error:
            patient = isinstance(error, VirtualBoxLost) and options["failures"] < PATIENT_FAILURES
            if options["reader"] == "api" or patient:
                raise
            why = str(error)
        else:
            named, served = os.environ.get("VBOX_USER_HOME"), reader.found.home
            if named and not (os.path.exists(named) and os.path.samefile(named, served)):
                reader.close()  # an open connection keeps that VBoxSVC alive
                raise wrong_home(named, served)
            return reader, ""
    from vmdns.sources.vboxmanage_reader import VBoxManageReader

    return VBoxManageReader(installation, os.environ, alive), why


class Host(Protocol):
    """Reports the host's addresses and neighbours from threads of its own."""

    def start(self) -> None:
        """Reports everything, then each change."""

    def request_look(self, source: str) -> None:
        """Reads this source now, and confirms it afterwards."""


class WorkerSources(NamedTuple):
    """What a worker reads: the VirtualBox and the network of this computer, or simulated ones (vmdns/demo).

    If lease_files is false, the host reports leases too.
    """

    find: Callable[[Mapping[str, str]], Installation | None] = find
    open_reader: Callable[[Installation, Mapping[str, Any], Callable[[], object]], tuple[Reader, str]] = open_reader
    host: Callable[[WorkerOutput], Host] = HostWatcher
    lease_files: bool = True


class Worker:
    """Reads what `sources` have. options: reader, home (or null), interval, failures, pause."""

    def __init__(self, options: Mapping[str, Any], output: WorkerOutput, sources: WorkerSources) -> None:
        self._sources = sources
        self._options = options
        self._output = output
        self._host = sources.host(output)
        self._reader: Reader | None = None
        self._home = user_home(os.environ)
        self._files = FileWatcher()
        self._leases = LeaseFolder()
        self._lease_trouble = ""

    def start(self) -> None:
        """Starts reading all but VirtualBox. Lease files change without VBoxSVC too."""
        self._host.start()
        if self._sources.lease_files:
            self._files.add(lambda: [self._home / "VirtualBox.xml"], self._request_reader_look)
            system = [Path(one) for one in BOOTPD_FILES]
            self._files.add(lambda: [*self._home.glob(f"*{SUFFIX}"), *system], self._read_leases, at_once=True)
            self._files.start()

    def read_virtualbox(self) -> None:
        """Reads until it raises `VirtualBoxLost` or `ReaderUnavailable`."""
        installation = self._find()
        home = self._options["home"]
        if home and not os.path.isdir(home):  # VirtualBox would create the folder
            raise VirtualBoxLost(f"there is no folder {home}, which vbox_home names; it is read once it is there")
        reader, detail = self._sources.open_reader(installation, self._options, self._output.beat)
        check_version(reader.found.version)
        self._reader = reader
        self._output.send({"found": reader.found._asdict(), "detail": detail})
        self._home = Path(reader.found.home)
        self._files.look()
        try:
            while True:
                self._output.report("virtualbox", reader.read(READ_SECONDS))
                self._output.beat()
        finally:
            reader.close()

    def serve_requests(self, requests: IO[bytes]) -> None:
        """Serves requests, and ends this process when its input ends because the server ended."""
        for line in requests:
            with suppress(ValueError, KeyError, TypeError):
                source = json.loads(line)["look"]
                if source == "virtualbox":
                    self._request_reader_look()
                    self._output.confirm_look(source)
                else:
                    self._host.request_look(source)
        os._exit(0)

    def _find(self) -> Installation:
        """Waits for an installation of VirtualBox."""
        found = self._sources.find(os.environ)
        if found is None:
            self._output.send({"absent": True})
        while found is None:
            self._output.beat()
            time.sleep(ABSENT_SECONDS)
            found = self._sources.find(os.environ)
        return found

    def _request_reader_look(self) -> None:
        if self._reader is not None:
            self._reader.request_look()

    def _read_leases(self) -> bool:
        """Reports all leases. Returns whether to read them again soon."""
        facts, trouble, again = self._leases.read(self._home)
        self._output.report("leases", facts)
        if trouble != self._lease_trouble:
            self._lease_trouble = trouble
            self._output.report_trouble("leases", trouble)
        return again


def run(
    requests: IO[bytes],
    output: WorkerOutput,
    options: Mapping[str, Any],
    sources: WorkerSources = WorkerSources(),  # noqa: B008
) -> None:
    """Reads until the server or VirtualBox has ended, then ends this process."""
    if options.get("home"):
        os.environ["VBOX_USER_HOME"] = options["home"]
    output.send({"pid": os.getpid()})
    worker = Worker(options, output, sources)
    threading.Thread(target=worker.serve_requests, args=(requests,), daemon=True).start()
    worker.start()
    pause = options["pause"]
    try:
        worker.read_virtualbox()
    except Exception as error:
        output.send({"lost": str(error) or type(error).__name__})
        pause = max(pause, getattr(error, "pause", 0.0))
    # The other watchers continue meanwhile. os._exit, because the libraries of a dead VBoxSVC do not shut down cleanly.
    time.sleep(pause)
    os._exit(0)


def main(sources: WorkerSources = WorkerSources()) -> None:  # noqa: B008
    """Runs the worker with its standard input and output."""
    requests, output = open_streams()
    run(requests, output, json.loads(requests.readline()), sources)


if __name__ == "__main__":
    main()
