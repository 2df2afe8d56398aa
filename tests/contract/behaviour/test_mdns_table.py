"""M01-M23 against multicast DNS of vmdns on the other end of a wire: two network namespaces on one link."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.contract.behaviour.mdns_rows import ROWS
from tests.live.mdnslab import OTHER, Network, links, network
from tests.needs import no_named_namespace

NAMES = [*(f"{ident.lower()}.local" for ident in ROWS), "m20-too.local"]
ADDRESSES = {name: f"192.168.56.{100 + number}" for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    if why := no_named_namespace():
        pytest.skip(why)
    wanted = [item.callspec.params["ident"] for item in request.session.items if item.name.startswith("test_row[")]  # type: ignore[attr-defined]
    with network() as wire:
        wire.plug("other", OTHER)
        yield run_cases(wire, wanted)


def run_cases(wire: Network, wanted: list[str]) -> dict[str, str]:
    given = json.dumps({"address": OTHER, "addresses": ADDRESSES, "wanted": wanted})
    client = wire.start("other", sys.executable, "-m", "tests.contract.behaviour.mdns_rows", given)
    client.saw("listening")
    host = wire.vmdns({name: [address] for name, address in ADDRESSES.items()})
    if client.saw("", after=1) == "remove m23.local":
        host.request(links({name: [address] for name, address in ADDRESSES.items() if name != "m23.local"}))
    found: dict[str, str] = json.loads(client.saw("{"))
    return found


@pytest.mark.parametrize("ident", ROWS)
def test_row(results: dict[str, str], ident: str) -> None:
    assert not results[ident], results[ident]
