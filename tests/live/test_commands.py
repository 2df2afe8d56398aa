"""The commands beside a real VirtualBox, with and without a server."""

from __future__ import annotations

import json

from tests.live.lab import Lab, serving


def test_names_ask_and_status(lab: Lab) -> None:
    lab.nat_network()
    lab.start_vm("Web Server", "10.0.2.4")
    alone = lab.vmdns("names", "--json")  # no server runs: it reads VirtualBox itself
    with serving(lab) as server:
        server.is_at("web-server.local", "10.0.2.4")
        served = lab.vmdns("names", "--json")
        (one,) = json.loads(served)["names"]
        (other,) = json.loads(alone)["names"]
        assert one["name"] == other["name"] == "web-server.local"
        assert one["addresses"][0]["address"] == other["addresses"][0]["address"] == "10.0.2.4"
        said = lab.vmdns("ask", "Web Server", check=False)
        assert "web-server.local has no A record (NODATA)" in said
        assert "NAT Network NatNetwork, which the host cannot reach" in said
        said = lab.vmdns("ask", "Web Server", "--as", "10.0.2.4")
        assert "web-server.local  A     10.0.2.4  5 s" in said
        assert "DHCP lease of NatNetwork" in said
        status = json.loads(lab.vmdns("status", "--json", check=False))
        assert status["virtualbox"]["version"].startswith(server.saw("VirtualBox ").split()[1].rstrip(","))
        assert {one["name"]: one["state"] for one in status["sources"]}["virtualbox"] == "ok"
