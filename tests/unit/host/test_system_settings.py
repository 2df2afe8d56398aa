"""The host's own address on its loopback interface: the commands of each system, and the real one in a namespace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.needs import needs_network_namespace
from vmdns.host.system_settings import RESOLVER_ADDRESS, LoopbackAddress, address_command


@pytest.mark.parametrize(
    ("system", "present", "line"),
    [
        ("linux", True, "ip address add 198.18.53.7/32 dev lo"),
        ("linux", False, "ip address del 198.18.53.7/32 dev lo"),
        ("darwin", True, "ifconfig lo0 alias 198.18.53.7 netmask 255.255.255.255"),
        ("darwin", False, "ifconfig lo0 -alias 198.18.53.7"),
        (
            "win32", True,
            "netsh interface ipv4 add address name=1 address=198.18.53.7 mask=255.255.255.255 store=persistent",
        ),
        ("win32", False, "netsh interface ipv4 delete address name=1 address=198.18.53.7"),
    ],
)  # fmt: skip
def test_commands(system: str, present: bool, line: str) -> None:
    assert " ".join(address_command("198.18.53.7", present, system)) == line


def test_only_addresses_get_into_a_command() -> None:
    with pytest.raises(ValueError):
        LoopbackAddress("198.18.53.7 dev eth0")


@needs_network_namespace
def test_given_and_taken_away_in_a_namespace() -> None:
    program = f"""
import subprocess
from vmdns.host.system_settings import LoopbackAddress
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
one = LoopbackAddress({RESOLVER_ADDRESS!r})
seen = [one.read()]
for value in (True, None):
    one.write(value)
    seen.append(one.read())
assert seen == [None, True, None], seen
"""
    command = ["unshare", "--net", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
