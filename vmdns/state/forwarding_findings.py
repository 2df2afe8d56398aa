"""Findings about names that are forwarded: domains below our zones, and answers withheld as DNS rebinding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vmdns.state.findings import OK, WARNING, Finding
from vmdns.state.problem import join_words
from vmdns.state.withheld_names import domain_to_allow

_MOST = 8


def find_forwarding_findings(status: Mapping[str, object]) -> Iterator[Finding]:
    """The findings from the status of a running vmdns."""
    zones = _texts(status.get("zones"))
    servers: dict[str, list[str]] = {}
    upstreams = status.get("upstreams")
    for one in upstreams if isinstance(upstreams, list) else []:
        for domain in _texts(one.get("domains")):
            servers.setdefault(domain, []).append(str(one["address"]))
    for domain, addresses in servers.items():
        if any(domain.endswith(f".{zone}") for zone in zones):
            text = f"lies below a zone of vmdns; names in it that no VM has are forwarded to {join_words(addresses)}"
            yield Finding(domain, OK, text)
    yield from _find_withheld(status.get("forwarding"))


def _find_withheld(forwarding: object) -> Iterator[Finding]:
    names = _texts(forwarding.get("held_back")) if isinstance(forwarding, Mapping) else []
    if not names:
        return
    domains = dict.fromkeys(map(domain_to_allow, reversed(names)))
    shown = ", ".join(f'"{domain}"' for domain in list(domains)[:_MOST])
    text = (
        f"answers for {join_words(names[-_MOST:])} contain private addresses and were withheld (DNS rebinding); if "
        f"these names are yours, write in vmdns.toml: private_domains = [{shown}]"
    )
    yield Finding("private addresses", WARNING, text)


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
