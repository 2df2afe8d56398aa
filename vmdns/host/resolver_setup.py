"""The shape of a plan that makes this host ask vmdns, whatever the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vmdns.host.plan import Setting


class Place(NamedTuple):
    """Where vmdns listens."""

    address: str = "127.0.0.1"
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Ask:
    """Settings with the values that they are to have, in their order, and what the user is to know.

    check is the address at which vmdns must answer before the last setting is made: without it, nothing would.
    """

    wanted: Sequence[tuple[Setting, Any]]
    notes: Sequence[str] = field(default_factory=list)
    check: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why this cannot be done here, and what can, in one sentence."""

    text: str
