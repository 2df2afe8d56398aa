"""The journal of settings that vmdns changed on this machine: a JSON file that is written before each change.

`--undo` needs nothing else, also after a crash. Several processes may change it at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmdns.host.folders import state_folder
from vmdns.host.state_file import lock_file, replace_file
from vmdns.regular_file import read_regular

_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One setting that was changed: by which command (scope), from what (before) to what (after)."""

    scope: str
    kind: str
    name: str
    before: Any
    after: Any


class Journal:
    """The entries in the file, in the order in which they were added. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, scope: str | None = None) -> list[JournalEntry]:
        """All entries, or those of a scope. Raises OSError, also for an invalid file."""
        try:
            content = json.loads(read_regular(self.path, _MOST_BYTES))
            found = [JournalEntry(**one) for one in content["entries"]]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise OSError(
                f"{self.path} cannot be understood ({error}); move it away to start with an empty one"
            ) from None
        return [one for one in found if scope is None or one.scope == scope]

    def find(self, scope: str, kind: str, name: str) -> JournalEntry | None:
        """The entry of one setting."""
        for one in self.entries(scope):
            if (one.kind, one.name) == (kind, name):
                return one
        return None

    def put(self, entry: JournalEntry) -> None:
        """Adds the entry, or replaces the one of the same setting."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with lock_file(self.path):
            entries = self.entries()
            key = (entry.scope, entry.kind, entry.name)
            for at, one in enumerate(entries):
                if (one.scope, one.kind, one.name) == key:
                    entries[at] = entry
                    break
            else:
                entries.append(entry)
            self._write(entries)

    def drop(self, entry: JournalEntry) -> None:
        """Removes an entry."""
        with lock_file(self.path):
            self._write([one for one in self.entries() if one != entry])

    def _write(self, entries: Sequence[JournalEntry]) -> None:
        replace_file(self.path, json.dumps({"entries": [asdict(one) for one in entries]}, indent=1))


def open_host_journal() -> Journal:
    """The journal of `vmdns host` of this user. Raises RuntimeError where no home folder is known."""
    return Journal(state_folder() / "journal.json")
