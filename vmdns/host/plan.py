"""Plan before effect: what vmdns changes on the user's machine is a list of steps that can be shown, done and undone.

A `Setting` is one thing that can be read and written whole: a file, a DHCP group, an address of the host. A step takes
it from one value to another. The journal holds both before anything is done, so that undo works after a crash at any
point, and never overwrites what someone else set since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vmdns.host.journal import Journal, JournalEntry

Value = Any  # what JSON can hold; None where there is nothing


class Setting(Protocol):
    """One thing on this machine, or in VirtualBox's settings, that has a value.

    kind and name identify it in the journal (`Registry`). elevated says whether writing it needs more rights than the
    user's own. `read` and `write` raise OSError (of which `Denied` is one) with a sentence that says what to do.
    """

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def elevated(self) -> bool: ...

    def read(self) -> Value:
        """The value now; None where there is nothing."""
        ...

    def write(self, value: Value) -> None:
        """Makes it have this value; None takes it away."""
        ...

    def describe(self, before: Value, after: Value) -> str:
        """One line for the user: what changes."""
        ...

    def commands(self, before: Value, after: Value) -> Sequence[str]:
        """Command lines that do the same by hand; empty where there are none."""
        ...


# Makes the setting of a kind from its name, for journal entries of an earlier run.
Registry = Callable[[str, str], Setting]


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
    """The steps that lead to the wanted values; none for what is so already. Raises what `read` raises."""
    steps = []
    for setting, after in wanted:
        before = setting.read()
        if before != after:
            steps.append(Step(setting, before, after))
    return steps


def apply(steps: Iterable[Step], journal: Journal, scope: str, say: Callable[[str], None]) -> None:
    """Does the steps in their order, each journaled before it is done. scope is the command, like `wire`.

    Raises what `write` raises; what was done until then stays done, and `undo` takes it back.
    """
    for step in steps:
        setting = step.setting
        held = journal.find(scope, setting.kind, setting.name)
        # What was there before the first of our changes is what undo gives back, unless someone set it since.
        before = held.before if held is not None and held.after == step.before else step.before
        journal.put(JournalEntry(scope, setting.kind, setting.name, before, step.after))
        say(step.text)
        setting.write(step.after)


def undo_plan(journal: Journal, scope: str, make: Registry) -> tuple[list[Step], list[str]]:
    """The steps that take back what was applied, the last first; and sentences on what is left as it is, and why."""
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
    make: Registry,
    say: Callable[[str], None],
    only: Callable[[JournalEntry], bool] = lambda entry: True,
) -> list[str]:
    """Takes everything of a scope back that `only` lets through, and forgets it. Returns the sentences of `undo_plan`
    on what is left.

    Raises what `write` raises; then what is not undone yet stays in the journal.
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
