"""The journal of what vmdns changed on this machine: a JSON file, replaced whole and on disk before the change is made.

It outlives vmdns, its configuration and a crash: `--undo` needs nothing else. Several processes may change it at once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmdns.host.file_lock import held
from vmdns.regular_file import read_regular

_FRESH = ".fresh"
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting that was changed: by which command (scope), from what (before) to what (after)."""

    scope: str
    kind: str
    name: str
    before: Any
    after: Any


class Journal:
    """The entries in the file, in the order in which they were first put. Raises OSError where it cannot be kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, scope: str | None = None) -> list[Entry]:
        """All entries, or those of a scope. Raises OSError, also where the file makes no sense."""
        try:
            held = json.loads(read_regular(self.path, _MOST_BYTES))
            found = [Entry(**one) for one in held["entries"]]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise OSError(f"{self.path} cannot be understood ({error}); move it away to start anew") from None
        return [one for one in found if scope is None or one.scope == scope]

    def find(self, scope: str, kind: str, name: str) -> Entry | None:
        """The entry of one setting."""
        for one in self.entries(scope):
            if (one.kind, one.name) == (kind, name):
                return one
        return None

    def put(self, entry: Entry) -> None:
        """Adds the entry, or replaces the one of the same setting."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with held(self.path):
            entries = self.entries()
            key = (entry.scope, entry.kind, entry.name)
            for at, one in enumerate(entries):
                if (one.scope, one.kind, one.name) == key:
                    entries[at] = entry
                    break
            else:
                entries.append(entry)
            self._write(entries)

    def drop(self, entry: Entry) -> None:
        """Forgets an entry."""
        with held(self.path):
            self._write([one for one in self.entries() if one != entry])

    def _write(self, entries: Sequence[Entry]) -> None:
        text = json.dumps({"entries": [asdict(one) for one in entries]}, indent=1)
        prefix = self.path.name + "-"
        for left in self.path.parent.glob(f"{prefix}*{_FRESH}"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=_FRESH, dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise
