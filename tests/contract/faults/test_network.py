"""Faults of the network that a whole host is needed for, in namespaces of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.faults.stream import note
from tests.needs import needs_mount_namespace


def play(what: str, short: Path) -> dict[str, Any]:
    """The result of a part of played_host.py in namespaces of its own, with a copy of what /etc needs."""
    etc = short / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "hosts", "localtime"):
        if Path("/etc", name).exists():
            shutil.copyfile(Path("/etc", name), etc / name)
    if Path("/etc/alternatives").exists():
        shutil.copytree("/etc/alternatives", etc / "alternatives", symlinks=True)
    program = str(Path(__file__).with_name("played_host.py"))
    run = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, program, what, str(short)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


@pytest.mark.slow
@needs_mount_namespace
def test_8_and_28_a_vpn_changes_the_name_servers_of_a_host_without_ipv6(short: Path) -> None:
    """The file of name servers names vmdns itself as well, is replaced, is gone for a while, and comes back."""
    found = play("vpn", short)
    note("8 name servers changed", f"recovered after {found['changed']:.2f} s")
    note("8 name servers are back", f"recovered after {found['back']:.2f} s")
    assert (found["wrong"], found["unanswered"]) == ([], 0)
    assert found["answered"] > 10
    assert found["kept"] == ["93.184.216.3"]  # not from the cache of before
    assert found["gone"] == ["93.184.216.3"]  # those that were there last are used on
    assert found["status"] == 0
    log = "\n".join(found["log"])
    assert "listening on 127.0.0.1 port 53" in log
    assert "::1" not in log  # a host without IPv6 is no fault
    assert "vmdns itself listens there" in log


@needs_mount_namespace
def test_a_company_below_local_and_private_addresses_from_outside_and_from_this_computer(short: Path) -> None:
    found = play("company", short)
    company, private = ["10.1.2.3"], ["192.168.56.201"]
    assert found["company"] == [company, private, ["192.168.56.200"], [], []]  # nas.lan is withheld
    assert found["ghost"] == 3
    assert found["line"].startswith("! nas.lan: ")
    assert found["line"].endswith('write in vmdns.toml: private_domains = ["lan"]')
    texts = {one["subject"]: one["text"] for one in found["doctor"]}
    assert "192.0.2.1:53" in texts["corp.local"]
    assert texts["private addresses"].endswith('private_domains = ["lan"]')
    assert found["others"] == []
    assert found["own"] == ["10.9.9.9"]
    assert found["left"] == [[], ["192.168.56.200"]]
