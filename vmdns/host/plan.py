"""Plans: lists of steps that change settings of the user's machine, and can be printed, applied and undone.

A `Setting` is one thing that can be read and written as a whole: a file, a DHCP group, an address of the host. A step
changes it from one value to another. Both values are in the journal before the change, so that undo works after a crash
at any point, and never overwrites what someone else has set since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vmdns.host.journal import Journal, JournalEntry

Value = Any  # a JSON value; None if nothing is set


class Setting(Protocol):
    """One thing on this machine, or in VirtualBox's settings, that has a value.

    kind and name identify it in the journal (`SettingFactory`). elevated: whether writing needs elevated
    rights. `read` and `write` raise OSError (of which `Denied` is one) with a sentence that says what to do.
    """

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def elevated(self) -> bool: ...

    def read(self) -> Value:
        """The value now; None if nothing is set."""
        ...

    def write(self, value: Value) -> None:
        """Sets this value; None removes it."""
        ...

    def describe(self, before: Value, after: Value) -> str:
        """One line for the user: what changes."""
        ...

    def commands(self, before: Value, after: Value) -> Sequence[str]:
        """Command lines that do the same; may be empty."""
        ...


# Makes the setting of a kind and name, for journal entries of an earlier run.
SettingFactory = Callable[[str, str], Setting]


@dataclass(frozen=True, slots=True)
class Step:
    """One setting, from one value to another."""

    setting: Setting
    before: Value
    after: Value

    @property
    def text(self) -> str:
        return self.setting.describe(self.before, self.after)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.setting.kind,
            "name": self.setting.name,
            "what": self.text,
            "elevated": self.setting.elevated,
            "before": self.before,
            "after": self.after,
            "commands": list(self.setting.commands(self.before, self.after)),
        }


def plan(wanted: Iterable[tuple[Setting, Value]]) -> list[Step]:
    """The steps to the wanted values, without those that have them already. Raises what `read` raises."""
    steps = []
    for setting, after in wanted:
        before = setting.read()
        if before != after:
            steps.append(Step(setting, before, after))
    return steps


def apply(steps: Iterable[Step], journal: Journal, scope: str, say: Callable[[str], None]) -> None:
    """Applies the steps in order, each journaled first. scope is the command, like `wire`.

    Raises what `write` raises; earlier steps stay applied, and `undo` takes them back.
    """
    for step in steps:
        setting = step.setting
        known = journal.find(scope, setting.kind, setting.name)
        # Undo restores the value before our first change, unless someone else has set it since.
        before = known.before if known is not None and known.after == step.before else step.before
        journal.put(JournalEntry(scope, setting.kind, setting.name, before, step.after))
        say(step.text)
        setting.write(step.after)


def undo_plan(journal: Journal, scope: str, make: SettingFactory) -> tuple[list[Step], list[str]]:
    """The steps that undo what was applied, the last first; and sentences about settings that are left alone."""
    steps, left = [], []
    for entry in reversed(journal.entries(scope)):
        setting = make(entry.kind, entry.name)
        now = setting.read()
        if now == entry.after:
            steps.append(Step(setting, now, entry.before))
        elif now != entry.before:
            left.append(f"{setting.describe(now, entry.before)}: left as it is, since it was changed by someone else")
    return steps, left


def undo(
    journal: Journal,
    scope: str,
    make: SettingFactory,
    say: Callable[[str], None],
    only: Callable[[JournalEntry], bool] = lambda entry: True,
) -> list[str]:
    """Undoes everything of a scope that `only` accepts, and removes it from the journal. Returns the sentences of
    `undo_plan`.

    Raises what `write` raises; the rest then stays in the journal.
    """
    left = []
    for entry in filter(only, reversed(journal.entries(scope))):
        setting = make(entry.kind, entry.name)
        now = setting.read()
        if now == entry.after and now != entry.before:
            say(setting.describe(now, entry.before))
            setting.write(entry.before)
        elif now != entry.before:
            left.append(f"{setting.describe(now, entry.before)}: left as it is, since it was changed by someone else")
        journal.drop(entry)
    return left
