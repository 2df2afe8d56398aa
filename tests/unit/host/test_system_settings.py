"""The host's own address on its loopback interface: the commands of each system, and the real one in a namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_network_namespace
from vmdns.host.system_settings import RESOLVER_ADDRESS, LoopbackAddress, SystemFile, address_command


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


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="rights are root's here")
def test_commands_around_a_file(tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "new folder" / "it's.conf"

    def note(word: str) -> tuple[str, ...]:
        return ("sh", "-c", f"echo {word} $(ls '{file.parent}' 2>/dev/null) >>{log}")

    class Noted(SystemFile):
        kind = "x"
        after, before_end, after_end = (note("after"),), (note("end"),), (note("gone"),)

    class Failing(SystemFile):
        kind = "x"
        after = (("sh", "-c", "echo no such unit >&2; exit 1"),)

    one = Noted(str(file))
    one.write("# what it is for\nx\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("# what it is for\nx\n", 0o644)
    assert one.describe(None, one.read()) == f"write {file}: what it is for"
    one.write(None)
    assert one.read() is None
    assert log.read_text() == "after it's.conf\nend it's.conf\ngone\n"
    with pytest.raises(OSError, match="no such unit"):
        Failing(str(file)).write("y\n")


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
