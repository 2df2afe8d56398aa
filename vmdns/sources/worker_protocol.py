"""The messages between the server and a worker process: one JSON object a line, over pipes or a Unix socket.

The first line that a worker reads has its options; each later line is a request. Its end means that the server ended:

    {"look": SOURCE}                              look at this source now; `looked` follows its report

A worker writes:

    {"pid": N}                                    this process; always the first message
    {"absent": true}                              VirtualBox is not installed; the worker waits for it
    {"found": {"version": ..., "reader": ..., "home": ...}, "detail": why the better reader is not used}
    {"put": SOURCE, "facts": {key: fact}}         everything that this source sees now
    {"patch": SOURCE, "facts": {key: fact|null}}  what changed since the last report; null for what is gone
    {"settled": true}                             everything in VirtualBox was reported once
    {"trouble": SOURCE, "text": ...}              why a source fails; '' once it works again
    {"looked": SOURCE}                            the requested look is over
    {"beat": n}                                   the reader is alive
    {"lost": text}                                the reader ended; the process ends after its pause
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from vmdns.state.facts import Fact, to_json

# Receives a source and all its facts by their keys.
Report = Callable[[str, Mapping[str, Fact]], None]


class WorkerOutput:
    """Writes messages, one a line, from any thread. Ends the process when the server has ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._reports: dict[str, Mapping[str, Fact]] = {}

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
            self._send_facts("put", source, facts)
            return
        # Most facts are the same objects as before, so identity is compared first.
        changes: dict[str, Fact | None] = {
            key: fact for key, fact in facts.items() if (old := before.get(key)) is not fact and old != fact
        }
        changes.update((key, None) for key in before if key not in facts)
        self.report_changes(source, changes)

    def report_changes(self, source: str, changes: Mapping[str, Fact | None]) -> None:
        """Sends what changed; None for what is gone."""
        if changes:
            self._send_facts("patch", source, changes)

    def report_trouble(self, source: str, text: str) -> None:
        """Sends why a source fails; '' once it works again."""
        self.send({"trouble": source, "text": text})

    def confirm_look(self, source: str) -> None:
        """Sends that a requested look is over."""
        self.send({"looked": source})

    def _send_facts(self, verb: str, source: str, facts: Mapping[str, Fact | None]) -> None:
        self.send({verb: source, "facts": {key: fact and to_json(fact) for key, fact in facts.items()}})


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
