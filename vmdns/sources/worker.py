"""The worker process: reads VirtualBox and its lease files, and writes what it finds to its standard output.

A process of its own because an XPCOM client can never connect again once VBoxSVC died, because a crash in
VirtualBox's libraries must not take the server along, and because reading 1,000 VMs holds the interpreter's lock.
Its input is one JSON line of options, then nothing: end of input means that the server is gone. Its output is a
JSON line a message:

    {"found": {"version": ..., "reader": ..., "home": ...}, "detail": why not the other reader}
    {"put": SOURCE, "facts": {key: fact}}         everything this source sees now
    {"patch": SOURCE, "facts": {key: fact|null}}  what changed
    {"trouble": SOURCE, "text": ...}              '' once it is over
    {"beat": n}                                   the reader still moves
    {"lost": text}                                the reader ended; the process follows after its pause
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vmdns.core.model import Fact, to_json
from vmdns.sources.installation import Installation, find
from vmdns.sources.leases import LeaseWatcher
from vmdns.sources.reader import Lost, Reader, Unavailable

BEAT_SECONDS = 5.0
STUCK_SECONDS = 15.0


class Output:
    """Writes messages, a line each, from any thread."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                os._exit(0)  # the server is gone

    def facts(self, verb: str, source: str, facts: Mapping[str, Fact | None]) -> None:
        self.send({verb: source, "facts": {key: None if one is None else to_json(one) for key, one in facts.items()}})


def open_reader(installation: Installation, choice: str, home: str | None, interval: float) -> tuple[Reader, str]:
    """The reader that was chosen, and why not the better one.

    Raises `Unavailable` where none can work here, `Lost` where VirtualBox does not answer.
    """
    why = ""
    if choice in ("auto", "api"):
        from vmdns.sources.virtualbox import ApiReader

        try:
            return ApiReader(installation, os.environ, interval), ""
        except Unavailable as error:
            if choice == "api":
                raise
            why = str(error)
    from vmdns.sources.vboxmanage import VBoxManageReader

    return VBoxManageReader(installation, os.environ, home), why


def work(options: Mapping[str, Any], output: Output) -> None:
    """Reads until VirtualBox is lost. options: reader, home (or null), interval and pause in seconds."""
    installation = find(os.environ)
    if installation is None:
        raise Unavailable("VirtualBox is not installed")
    reader, detail = open_reader(installation, options["reader"], options["home"], options["interval"])
    output.send({"found": reader.found._asdict(), "detail": detail})
    threading.Thread(target=_beat, args=(output, reader), daemon=True).start()
    watcher = LeaseWatcher(
        Path(reader.found.home),
        lambda facts: output.facts("put", "leases", facts),
        lambda text: output.send({"trouble": "leases", "text": text}),
        reader.nudge,
    )
    try:
        watcher.start()
    except OSError as error:
        output.send({"trouble": "leases", "text": f"the folder of lease files cannot be watched ({error})"})
    try:
        output.facts("put", "virtualbox", reader.look())
        while True:
            changes = reader.wait(options["interval"])
            if changes:
                output.facts("patch", "virtualbox", changes)
    finally:
        reader.close()


def _beat(output: Output, reader: Reader) -> None:
    """A sign of life while the reader moves; without one the server ends this process and starts another."""
    count = 0
    while True:
        time.sleep(BEAT_SECONDS)
        if time.monotonic() - getattr(reader, "moved", time.monotonic()) < STUCK_SECONDS:
            count += 1
            output.send({"beat": count})


def _follow_parent() -> None:
    """Ends this process when its input ends: the server is gone, however it went."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main() -> int:
    """Runs the worker. Standard output is kept for messages alone: vboxapi prints its errors there."""
    output = Output(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    options = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        work(options, output)
    except (Lost, Unavailable) as error:
        output.send({"lost": str(error)})
    # The lease watcher goes on meanwhile: addresses may change while VBoxSVC is away.
    time.sleep(options["pause"])
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
