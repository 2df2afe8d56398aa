"""Upstreams: the servers that questions which are not ours are forwarded to."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Upstream(NamedTuple):
    """A server that answers recursively (RFC 9499 section 6): a literal address (with its zone id) and a port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where to forward: the servers for everything, and those of single domains (wire name, lower case).

    search holds the host's search domains (wire names). Answers from those domains and from the keys of `domains`
    may hold private addresses; from elsewhere they are taken for DNS rebinding. stub holds the addresses that the host
    itself asks where those are not the default servers but a stub in front of them.
    """

    default: tuple[Upstream, ...] = ()
    domains: Mapping[bytes, tuple[Upstream, ...]] = field(default_factory=dict)
    search: frozenset[bytes] = frozenset()
    stub: tuple[str, ...] = ()

    @property
    def resolvers(self) -> tuple[str, ...]:
        """The addresses that the host itself asks, in its order: what VirtualBox passes on to guests behind NAT."""
        return self.stub or tuple(server.address for server in self.default)


def closest(key: bytes, among: Container[bytes]) -> bytes | None:
    """The most specific of these wire names (lower case) that is the name itself or above it; None if none is."""
    while key not in among:
        if not key[0]:
            return None
        key = key[1 + key[0] :]
    return key
