"""The commands beside a real VirtualBox, with and without a server."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.live.lab import Lab, serving


def _vmdns(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmdns", *words],
        env=lab.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_names_ask_and_status(lab: Lab) -> None:
    lab.nat_network("N")
    uuid = lab.create("Web Server", "--nic1", "natnetwork", "--nat-network1", "N")
    lab.start(uuid)
    lab.lease("N", (lab.mac(uuid), "10.0.2.4"))

    alone = _vmdns(lab, "names", "--json")  # no server runs: it looks by itself
    assert alone.returncode == 0, alone.stderr
    assert "no vmdns runs" in alone.stderr.lower()
    with serving(lab) as server:
        server.is_at("web-server.local", "10.0.2.4")
        served = _vmdns(lab, "names", "--json")
        (one,) = json.loads(served.stdout)["names"]
        (other,) = json.loads(alone.stdout)["names"]
        assert one["name"] == other["name"] == "web-server.local"
        assert one["addresses"][0]["address"] == other["addresses"][0]["address"] == "10.0.2.4"
        said = _vmdns(lab, "ask", "Web Server").stdout
        assert "web-server.local has no A record (NODATA)" in said
        assert "NAT Network N, which the host cannot reach" in said
        said = _vmdns(lab, "ask", "Web Server", "--as", "10.0.2.4").stdout
        assert "web-server.local  A     10.0.2.4  5 s" in said
        assert "DHCP lease of N" in said
        status = json.loads(_vmdns(lab, "status", "--json").stdout)
        assert status["virtualbox"]["version"].startswith(server.saw("VirtualBox ").split()[1].rstrip(","))
        assert {one["name"]: one["state"] for one in status["sources"]}["virtualbox"] == "ok"
