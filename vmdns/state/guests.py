"""A VM as people see it: its names, its addresses, and why it has none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vmdns.state.addresses import SAME_MACHINE_ID
from vmdns.state.facts import Machine, Network, PortForward
from vmdns.state.findings import Problem, join_words
from vmdns.state.name_assignment import AssignedNames
from vmdns.state.networks import Address

MAX_NAMED = 3
SAME_MAC = "they have one MAC address; `vmdns doctor` has the command that gives one of them another"


@dataclass(frozen=True)
class Guest:
    """One VM: its names below each zone, its addresses, why others are not used, and the port-forward rules that lead
    to it."""

    machine: Machine
    named: AssignedNames
    addresses: tuple[Address, ...]
    refused: tuple[Problem, ...]
    forwards: tuple[PortForward, ...] = ()

    @property
    def answers(self) -> object:
        """What of it decides answers: two that are equal here are answered alike."""
        places = [(one.address, one.network) for one in self.addresses]
        return self.machine.online, self.named.names, places, self.forwards

    @property
    def reachable_addresses(self) -> list[Address]:
        """Those that are not inside of plain NAT, where nobody else comes."""
        return [one for one in self.addresses if one.network.kind != "nat"]

    @property
    def waiting(self) -> bool:
        """Whether it runs, and nothing leads to it yet."""
        return self.machine.online and not self.addresses and not self.forwards

    @property
    def note(self) -> str:
        """Why it has no address, or not the name it wanted; '' if all is well."""
        names = [*(one.text for one in self.named.problems), self.named.note]
        parts = [*(f"it {text}" for text in names if text), *(one.text for one in self.refused)]
        if self.waiting and (problem := self.find_problem()):
            parts.append(f"it {problem.text}")
        return "; ".join(parts)

    def find_problem(self) -> Problem | None:
        """Why nobody can reach a VM that runs, None where somebody can. The text goes on after its name."""
        machine = self.machine
        if self.reachable_addresses or self.forwards:
            return None
        if not machine.adapters:
            command = f"VBoxManage modifyvm {machine.uuid} --nic1=nat"
            return Problem("has no network adapter", "shut it down, then", command)
        plugged = [adapter for adapter in machine.adapters if adapter.cable] or machine.adapters
        if all(adapter.network.kind == "nat" for adapter in plugged):
            # A port that is the same each time and most likely free.
            port = 20_000 + int(machine.uuid.replace("-", "")[-6:], 16) % 10_000
            command = f"VBoxManage controlvm {machine.uuid} natpf{plugged[0].slot + 1} ssh,tcp,127.0.0.1,{port},,22"
            text = "is on NAT alone, where nobody can reach it: add a port-forward rule or another adapter"
            return Problem(text, command=command)
        text, on = "runs, but no address of it is known yet", join_words(one.network.phrase for one in plugged)
        leased = [one.slot for one in plugged if one.network.kind in ("natnetwork", "hostonly", "intnet")]
        if leased:
            remedy = f"it has no DHCP lease on {on}, and Guest Additions report none; have it ask again"
            return Problem(text, remedy, replug_command(machine, leased[0]))
        silent = "Guest Additions report none, and it has sent this computer nothing; ping this computer from it"
        return Problem(text, f"it is on {on}: {silent}")


def replug_command(machine: Machine, slot: int) -> str:
    """The command that has a guest renew its lease, whatever system it runs."""
    link = f"VBoxManage controlvm {machine.uuid} setlinkstate{slot + 1}"
    return f"{link} off && {link} on"


class VmChange(NamedTuple):
    """One VM whose names or addresses changed: before and after, None where it was not or is no more online."""

    before: Guest | None
    after: Guest | None


def compare_guests(before: Guest | None, after: Guest | None) -> VmChange | None:
    """The change of a VM; None if its answers are unchanged."""
    was = before if before is not None and before.machine.online else None
    now = after if after is not None and after.machine.online else None
    if (was or now) and (was is None or now is None or was.answers != now.answers):
        return VmChange(was, now)
    return None


def find_shared_addresses(guests: Iterable[Guest]) -> dict[tuple[str, Network], Problem]:
    """The addresses that several VMs have on one network, as vmdns cannot know whose such an address is.

    Where one of them has better proof than the others (a lease, the host's neighbour table), the address of the others
    is refused (addresses.py) and not reported here. What remains are claims of equal worth, and copies of a VM that
    have its MAC, and so its lease.
    """
    at: dict[tuple[str, Network], list[tuple[Guest, str]]] = {}
    for guest in guests:
        for one in {(one.address, one.network): one for one in guest.reachable_addresses}.values():
            at.setdefault((one.address, one.network), []).append((guest, one.mac))
    found = {}
    for (address, network), among in sorted(at.items(), key=lambda pair: (pair[0][0], repr(pair[0][1]))):
        if len(among) > 1:
            names = [f"VM {guest.machine.name!r}" for guest, _ in among]
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            who = f"{', '.join(names[:MAX_NAMED])}{more}"
            text = f"{who}: all of them are at {address} on {network.name}, so it is not known whose it is"
            same_mac = len({mac for _, mac in among}) == 1
            found[address, network] = Problem(text, SAME_MAC if same_mac else SAME_MACHINE_ID)
    return found
