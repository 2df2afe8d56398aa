"""Plans: lists of steps that change settings of the user's machine, and can be printed, applied and undone.

A `Setting` is one thing that can be read and written as a whole: a file, a DHCP group, an address of the host. A step
changes it from one value to another. Both values are in the journal before the change, so that undo works after a crash
at any point, and never overwrites what someone else has set since.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from vmdns.files import lock_file, read_regular, replace_file
from vmdns.host import elevation

_MAX_JOURNAL_BYTES = 16 * 1024 * 1024

Log = Callable[[str], None]


@dataclass(frozen=True)
class Setting(ABC):
    """One thing on this machine, or in VirtualBox's settings, that has a value: a JSON value, None if nothing is set.

    kind and name identify it in the journal. elevated: whether writing needs elevated rights.
    """

    kind: ClassVar[str]
    elevated: ClassVar[bool] = True
    name: str

    @abstractmethod
    def read(self) -> Any:
        """The value now. Raises OSError."""

    @abstractmethod
    def describe(self, before: Any, after: Any) -> str:
        """One line for the user: what changes."""

    def commands(self, value: Any) -> Sequence[Sequence[str]]:
        """The commands that set this value; None removes it. There are none for what is set by calls of the system."""
        return ()

    def write(self, value: Any) -> None:
        """Sets this value; None removes it. Raises OSError."""
        for command in self.commands(value):
            elevation.run(command, elevated=self.elevated)

    def command_lines(self, value: Any) -> list[str]:
        """Command lines for the user that do the same; may be empty."""
        return [elevation.format_command(command, elevated=self.elevated) for command in self.commands(value)]


# Settings with their new values, in order; and notes for the user.
Plan = tuple[list[tuple[Setting, Any]], list[str]]
# Makes the settings of each kind by their names, for journal entries of an earlier run.
Kinds = Mapping[str, Callable[[str], Setting]]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One setting that was changed: by which command (scope), from what (before) to what (after)."""

    scope: str
    kind: str
    name: str
    before: Any
    after: Any

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scope, self.kind, self.name


class Journal:
    """The changed settings in a JSON file, in the order of their first change; several processes may change it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, scope: str | None = None) -> list[JournalEntry]:
        """All entries, or those of a scope. Raises OSError, also for an invalid file."""
        try:
            content = json.loads(read_regular(self.path, _MAX_JOURNAL_BYTES))
            found = [JournalEntry(**one) for one in content["entries"]]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise OSError(
                f"{self.path} cannot be understood ({error}); move it away to start with an empty one"
            ) from None
        return [one for one in found if scope is None or one.scope == scope]

    def put(self, entry: JournalEntry) -> None:
        """Adds the entry, or replaces the one of the same setting."""
        with lock_file(self.path):
            self._write(list(({one.key: one for one in self.entries()} | {entry.key: entry}).values()))

    def drop(self, entry: JournalEntry) -> None:
        """Removes an entry."""
        with lock_file(self.path):
            self._write([one for one in self.entries() if one != entry])

    def _write(self, entries: Sequence[JournalEntry]) -> None:
        text = json.dumps({"entries": [asdict(one) for one in entries]}, indent=1)
        replace_file(self.path, text.encode())


@dataclass(frozen=True, slots=True)
class Step:
    """One setting, from one value to another."""

    setting: Setting
    before: Any
    after: Any

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.setting.kind,
            "name": self.setting.name,
            "what": self.setting.describe(self.before, self.after),
            "elevated": self.setting.elevated,
            "before": self.before,
            "after": self.after,
            "commands": self.setting.command_lines(self.after),
        }

    def apply(self, log: Log) -> None:
        """Logs and makes the change, and reads it back: a command that does nothing may still end well. Raises what
        `Setting.write` and `Setting.read` raise, and OSError where the setting has another value than was written."""
        what = self.setting.describe(self.before, self.after)
        log(what)
        if sys.platform == "win32" and self.setting.elevated and not elevation.is_elevated():
            elevation.write_elevated(self.setting.kind, self.setting.name, self.after)
        else:
            self.setting.write(self.after)
        if self.setting.read() != self.after:
            raise OSError(f"{what}: this had no effect, although no error was reported; nothing more is changed")


def plan(wanted: Iterable[tuple[Setting, Any]]) -> list[Step]:
    """The steps to the wanted values, without those that have them already. Raises OSError."""
    steps = (Step(setting, setting.read(), after) for setting, after in wanted)
    return [step for step in steps if step.before != step.after]


def apply(
    steps: Iterable[Step], journal: Journal, scope: str, log: Log, ready: Callable[[Step], None] = lambda step: None
) -> None:
    """Applies the steps in order, each journaled first. Raises OSError, also what `ready`, which is called before each
    step, raises; earlier steps stay applied, for `undo`."""
    for step in steps:
        ready(step)
        entry = JournalEntry(scope, step.setting.kind, step.setting.name, step.before, step.after)
        # Undo restores the value before our first change, unless someone else has set it since.
        for known in journal.entries(scope):
            if known.key == entry.key and known.after == step.before:
                entry = JournalEntry(*entry.key, known.before, step.after)
        journal.put(entry)
        step.apply(log)


def _undo_steps(entries: Sequence[JournalEntry], kinds: Kinds) -> Iterator[tuple[JournalEntry, Step | str]]:
    """The step that undoes each entry, the last first, or why the setting is left alone ('' where nothing is to be
    done). Each is made when it is taken, because a step can change what the next one reads."""
    for entry in reversed(entries):
        if entry.kind not in kinds:
            raise OSError(f"the journal names {entry.kind} {entry.name}, which this vmdns cannot change on this system")
        setting = kinds[entry.kind](entry.name)
        now = setting.read()
        if now == entry.before:
            yield entry, ""
        elif now == entry.after:
            yield entry, Step(setting, now, entry.before)
        else:
            what = setting.describe(now, entry.before)
            yield entry, f"{what}: left as it is, since it was changed by someone else"


def undo(journal: Journal, entries: Sequence[JournalEntry], kinds: Kinds, log: Log) -> list[str]:
    """Undoes these entries, the last first, and removes them from the journal. Returns a sentence for each setting that
    is left alone. Raises OSError; the rest then stays in the journal."""
    left = []
    for entry, step in _undo_steps(entries, kinds):
        if isinstance(step, Step):
            step.apply(log)
        elif step:
            left.append(step)
        journal.drop(entry)
    return left


def change(
    wanted: Plan | None,
    journal: Journal,
    scope: str,
    kinds: Kinds,
    agreed: Callable[[dict[str, Any]], bool],
    log: Log,
    ready: Callable[[Step], None] = lambda step: None,
) -> dict[str, Any]:
    """Plans to set what is wanted, or to undo what was applied (None), and does it if `agreed`, which gets the response
    with the plan, returns true. Returns the response of the command. Raises OSError as `apply` and `undo` do."""
    entries = journal.entries(scope)
    settings, notes = wanted or ([], [])
    found = plan(settings) if wanted else [step for _, step in _undo_steps(entries, kinds)]
    steps = [one for one in found if isinstance(one, Step)]
    left = [one for one in found if isinstance(one, str) and one]
    response = {"steps": [one.as_json() for one in steps], "left": left, "notes": notes if steps else [], "done": False}
    response["done"] = agreed(response)
    if response["done"] and wanted:
        apply(steps, journal, scope, log, ready)
    elif response["done"]:
        undo(journal, entries, kinds, log)
    return response
