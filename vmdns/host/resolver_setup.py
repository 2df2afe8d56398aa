"""Plans that make this host send queries to vmdns: types for all systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vmdns.host.plan import Setting


class ListenAddress(NamedTuple):
    """Where vmdns listens."""

    address: str = "127.0.0.1"
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == 53 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ResolverPlan:
    """Settings with their new values, in order, and notes for the user.

    check is the address at which vmdns must answer before the last setting is changed, or no name would resolve.
    """

    wanted: Sequence[tuple[Setting, Any]]
    notes: Sequence[str] = field(default_factory=list)
    check: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no plan for this host, and what to do instead, in one sentence."""

    text: str
