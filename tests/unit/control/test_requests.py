"""What the running server sends to commands: doctor's findings come from its own names, with the hosts file in play."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.facts import NOW, lease, vm
from tests.unit.state.test_diagnosis import STATUS, WORLD
from vmdns.control.requests import Requests
from vmdns.state.facts import HostName
from vmdns.state.policy import Policy
from vmdns.state.static_records import index_hosts
from vmdns.store import Store

POLICY = Policy()


async def answers(*hosts: HostName) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The responses to names, doctor and status of a server with one VM named web, and this hosts file."""
    table = Store(POLICY, wall=lambda: NOW)
    table.put_hosts(index_hosts(list(hosts), POLICY.apexes, POLICY.ttl))
    table.put("virtualbox", {str(number): fact for number, fact in enumerate((*WORLD, vm(1, "web")))})
    table.put("leases", {"1": lease(1, "10.0.2.4")})
    await table.wait_until_published()
    requests = Requests(lambda: table.snapshot, lambda: table.facts, lambda *_: None, lambda: dict(STATUS), dict)
    found = [await requests.handle({"do": do}) for do in ("names", "doctor", "status")]  # type: ignore[misc]
    table.close()
    return found[0], found[1], found[2]


def test_doctor_uses_the_names_of_the_server() -> None:
    """The hosts file has the name of a running VM for another machine: doctor says what `names` says."""
    names, doctor, status = asyncio.run(answers(HostName("web", "192.0.2.80")))
    (web,) = names["names"]
    assert web["name"] == "web-2.local"
    (found,) = [one for one in doctor["findings"] if one["subject"] == "VM 'web'"]
    assert found["level"] == "warning"
    assert "hosts file" in found["text"]
    assert "web-2" in found["text"]
    assert status["verdict"] == "1 warning: run vmdns doctor"


def test_all_is_well() -> None:
    _, doctor, status = asyncio.run(answers())
    assert {one["level"] for one in doctor["findings"]} == {"ok"}
    assert [one["text"] for one in doctor["findings"] if one["subject"] == "VM 'web'"] == ["is web at 10.0.2.4"]
    assert status["verdict"] == "All well"
