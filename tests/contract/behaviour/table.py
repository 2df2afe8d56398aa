"""The cases of the list of correct answers, by their ids.

A case is a coroutine with a Client. It runs by UDP and by TCP, unless it says that only one makes sense; and by UDP
over IPv6 as well, whose datagrams are read one by one, those of IPv4 in batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.contract.behaviour.client import Client

Scenario = Callable[[Client], Awaitable[None]]
BOTH, UDP, TCP = ("udp", "tcp"), ("udp",), ("tcp",)


class Row(NamedTuple):
    """One case over one transport. slow: it has to wait, and is begun before the others."""

    id: str
    over: str
    scenario: Scenario
    slow: bool


ROWS: list[Row] = []


def case(ident: str, over: tuple[str, ...] = BOTH, *, slow: bool = False) -> Callable[[Scenario], Scenario]:
    """Makes the scenario the case of this id."""

    def add(scenario: Scenario) -> Scenario:
        assert ident not in {row.id for row in ROWS}, f"{ident} is there already"
        also = ("udp6",) if "udp" in over and not slow else ()
        ROWS.extend(Row(ident, one, scenario, slow) for one in (*over, *also))
        return scenario

    return add
