"""A VirtualBox 7.2.22 with the oddest VMs, recorded: what VBoxManage printed, and what the API said at that moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vmdns.sources.reader import fact_key
from vmdns.state.facts import Fact, Machine, from_json

FOLDER = Path(__file__).parent / "samples" / "zoo"
CALLS: dict[str, dict[str, Any]] = {
    " ".join(call["arguments"]): call for call in json.loads((FOLDER / "calls.json").read_text("utf-8"))
}
FACTS: dict[str, Fact] = {
    fact_key(fact): fact for fact in map(from_json, json.loads((FOLDER / "facts.json").read_text("utf-8")))
}
MACHINES = {fact.uuid: fact for fact in FACTS.values() if isinstance(fact, Machine)}
NOBODY = "11111111-2222-3333-4444-555555555555"


def out(*arguments: str) -> str:
    """What VBoxManage printed."""
    return str(CALLS[" ".join(arguments)]["out"])


def named(name: str) -> Machine:
    """The VM of that name, as the API has it."""
    return next(machine for machine in MACHINES.values() if machine.name == name and machine.accessible)
