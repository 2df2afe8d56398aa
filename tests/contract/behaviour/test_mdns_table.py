"""M01-M23 against multicast DNS of vmdns on the other end of a wire: two network namespaces on one link."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.contract.behaviour.mdns_rows import ROWS
from tests.live.mdnslab import OTHER, PROJECT, Network, links, network, unavailable

NAMES = [*(f"{ident.lower()}.local" for ident in ROWS), "m20-too.local"]
ADDRESSES = {name: f"192.168.56.{100 + number}" for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    if why := unavailable():
        pytest.skip(why)
    wanted = [item.callspec.params["ident"] for item in request.session.items if item.name.startswith("test_row[")]  # type: ignore[attr-defined]
    with network() as wire:
        wire.plug("other", OTHER)
        yield asked(wire, wanted)


def asked(wire: Network, wanted: list[str]) -> dict[str, str]:
    given = json.dumps({"address": OTHER, "addresses": ADDRESSES, "wanted": wanted})
    command = wire.inside("other", sys.executable, "-m", "tests.contract.behaviour.mdns_rows", given)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as asker:
        assert asker.stdout is not None
        assert asker.stdout.readline() == "listening\n"
        host = wire.vmdns({name: [address] for name, address in ADDRESSES.items()})
        line = asker.stdout.readline()
        if line == "told\n":
            host.tell(links({name: [address] for name, address in ADDRESSES.items() if name != "m23.local"}))
            line = asker.stdout.readline()
        assert line, "the asker ended"
        found: dict[str, str] = json.loads(line)
        return found


@pytest.mark.parametrize("ident", ROWS)
def test_row(results: dict[str, str], ident: str) -> None:
    assert not results[ident], results[ident]
