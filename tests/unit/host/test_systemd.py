"""The units, run by a real systemd: they start, are confined, restarted, and come and go with their user's manager."""

from __future__ import annotations

import shlex
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.host import systemd
from tests.unit.host.test_confined import units
from vmdns.host.service_program import ServiceOwner, ServiceProgram

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
UID = 54321
PYTHON = "/usr/bin/python3"  # another user may run it, wherever that of the tests is
PLACE = "/opt/vmdns-test"
ALICE = ServiceProgram(
    ServiceOwner("alice", UID, Path("/home/alice")),
    (PYTHON, "-P", "-m", "vmdns", "run"),
    (("PYTHONPATH", f"{PLACE}/tree:{PLACE}/site"), ("PYTHONDONTWRITEBYTECODE", "1")),
)
SERVER, SOCKET, BESIDE = "vmdns-alice.service", "vmdns-beside-alice.socket", "vmdns-beside-alice@*.service"
LOW_PORTS = 1 << 10  # CAP_NET_BIND_SERVICE (linux/capability.h)

ASK = """
import dns.message, dns.query
for way in (dns.query.udp, dns.query.tcp):
    assert way(dns.message.make_query("local", "SOA"), "127.0.0.1", timeout=5).answer
"""

PREPARE = """
    echo "alice:x:$UID_OF_ALICE:$UID_OF_ALICE::/home/alice:/bin/sh" >>etc/passwd
    echo "alice:x:$UID_OF_ALICE:" >>etc/group
    echo "alice:*:20000:0:99999:7:::" >>etc/shadow
    mkdir -p home/alice opt/vmdns-test/tree opt/vmdns-test/site
    chown "$UID_OF_ALICE" home/alice
    mount --bind "$TREE" opt/vmdns-test/tree
    mount --bind "$SITE" opt/vmdns-test/site
    cp "$UNITS"/* etc/systemd/system
"""


def _missing() -> str:
    if shutil.which(PYTHON) is None:
        return f"no {PYTHON}"
    return systemd.missing()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[systemd.System]:
    files, root = tmp_path / "units", tmp_path / "root"
    files.mkdir()
    root.mkdir()
    units(files, ALICE)
    environ = {
        "UID_OF_ALICE": f"{UID}", "TREE": str(ROOT), "SITE": sysconfig.get_path("purelib"), "UNITS": str(files),
    }  # fmt: skip
    try:
        with systemd.booted(root, PREPARE, environ) as found:
            if found.run(PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))").strip() != "True":
                pytest.skip(f"{PYTHON} is older than 3.11")
            yield found
    except OSError as error:
        pytest.skip(f"no systemd of one's own here: {error}")


def asked(system: systemd.System) -> None:
    """It answers at port 53, by UDP and TCP."""
    program = f"import sys; sys.path.insert(0, '{PLACE}/site')\n{ASK}"
    system.run(PYTHON, "-c", program)


@pytest.mark.skipif(_missing() != "", reason=_missing())
def test_the_units_under_systemd(system: systemd.System) -> None:
    system.run("systemctl", "start", f"user@{UID}.service")
    system.run("systemctl", "enable", "--now", SERVER)  # ends when vmdns says that it is ready
    asked(system)
    first = system.show(SERVER, "MainPID")
    said = dict(
        line.split(":\t", 1) for line in system.run("cat", f"/proc/{first}/status").splitlines() if ":\t" in line
    )
    assert said["Uid"].split()[0] == f"{UID}"
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == LOW_PORTS
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
    beside = system.run("systemctl", "list-units", "--plain", "--no-legend", BESIDE)
    assert len(beside.splitlines()) == 1, "what reads VirtualBox is started by the socket, outside of the service"
    assert "VirtualBox" in system.run("journalctl", "--no-pager", f"--unit={SERVER}")

    system.run("kill", "-KILL", first)
    system.until(lambda: system.show(SERVER, "MainPID") not in ("0", first), "systemd starts it again")
    system.until(lambda: system.show(SERVER, "ActiveState") == "active", "it is ready again")
    asked(system)

    system.run("systemctl", "stop", f"user@{UID}.service")
    assert [system.show(one, "ActiveState") for one in (SERVER, SOCKET)] == ["inactive", "inactive"]
    system.run("systemctl", "start", f"user@{UID}.service")
    system.until(lambda: system.show(SERVER, "ActiveState") == "active", "it comes with its user's manager")
    system.run("systemctl", "disable", "--now", SERVER)
    assert shlex.split(system.run("sh", "-c", "ls /run/vmdns* 2>/dev/null || true")) == []
