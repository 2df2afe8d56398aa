"""The units: what systemd-analyze says of them, and run by a real systemd. They start, are confined, restarted, and
come and go with their user's manager."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.unit.host import systemd
from vmdns.host.service_program import ServiceOwner, ServiceProgram
from vmdns.host.systemd import unit_files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
UID = 54321
PYTHON = "/usr/bin/python3"  # another user may run it, wherever that of the tests is
PLACE = "/opt/vmdns-test"
ENVIRONMENT = {
    "HOME": "/home/alice", "PYTHONPATH": f"{PLACE}/tree:{PLACE}/site", "PYTHONDONTWRITEBYTECODE": "1",
    "VBOX_PROGRAM_PATH": "/nowhere",
}  # fmt: skip
ALICE = ServiceProgram(
    ServiceOwner("alice", UID, Path("/home/alice")),
    (PYTHON, "-P", "-m", "vmdns", "run", "--listen", "127.0.0.1"),
    tuple(ENVIRONMENT.items()),
)
SERVER, SOCKET, BESIDE = "vmdns-alice.service", "vmdns-beside-alice.socket", "vmdns-beside-alice@*.service"
LOW_PORTS = f"{1 << 10:016x}"  # CAP_NET_BIND_SERVICE (linux/capability.h)

# -- systemd-analyze ---------------------------------------------------------------------------------------------

ANALYZE = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


def units(folder: Path, program: ServiceProgram = ALICE) -> list[Path]:
    """Writes the unit files: of the server, of its socket, of what the socket starts."""
    made = dict(reversed(unit_files(program).items()))
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in made]


def analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def calls(names: Iterable[str]) -> set[str]:
    """The system calls in these sets, as the systemd here knows them."""
    found: set[str] = set()
    for name in names:
        if name.startswith("@"):
            lines = analyze("syscall-filter", name).splitlines()[1:]
            found |= calls(line.strip() for line in lines if line[:1] == " " and "#" not in line)
        else:
            found.add(name)
    return found


@ANALYZE
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    server, socket, beside = units(
        tmp_path, ServiceProgram(ServiceOwner("root", 0, Path("/root")), ("/bin/sh", "-c", "a $HOME 5% ;"))
    )
    output = analyze("verify", "--man=no", str(server), str(socket))
    assert [line for line in output.splitlines() if "vmdns" in line] == []
    for file, right in ((server, "Type=notify"), (socket, "Accept=yes"), (beside, "KillMode=process")):
        text = file.read_text()
        file.write_text(text.replace(right, right.partition("=")[0] + "=nonsense"))
        assert "nonsense" in analyze("verify", "--man=no", str(server), str(socket)), "what is wrong would be seen"
        file.write_text(text)


@ANALYZE
def test_its_exposure_is_below_two(tmp_path: Path) -> None:
    server, _, beside = units(tmp_path)
    pattern = r"Overall exposure level for \S+: ([0-9.]+)"
    found = [re.search(pattern, analyze("security", "--offline=true", str(file))) for file in (server, beside)]
    if found[0] is None:
        pytest.skip("systemd before 250 does not look at files")
    assert found[0]
    assert found[1]
    assert float(found[0][1]) < 2.0
    assert float(found[1][1]) > 9.0, "what starts VMs is not confined, or this measures nothing"


@ANALYZE
def test_the_calls_that_are_left() -> None:
    left: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit_files(ALICE)[SERVER], re.MULTILINE):
        found = calls(line.removeprefix("~").split())
        left = left - found if line.startswith("~") else left | found
    assert {"recvmmsg", "sendmmsg", "inotify_init1", "kill", "prlimit64", "execve", "futex", "sched_setattr"} <= left
    assert not {"mount", "ptrace", "bpf", "capset", "setuid", "chown", "setrlimit", "kexec_load", "reboot"} & left
    assert "setpriority" not in left


# -- a real systemd ------------------------------------------------------------------------------------------------

QUERY = """
import dns.message, dns.query
for way in (dns.query.udp, dns.query.tcp):
    assert "hostmaster.local." in way(dns.message.make_query("local", "SOA"), "127.0.0.1", timeout=5).to_text()
"""

TALK = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.settimeout(10)
try:
    one.connect(sys.argv[1])
    one.sendall(b'{"do": "status"}\\n')
    print(one.recv(100), end="")
except OSError as error:
    print(type(error).__name__, end="")
"""
CLOSED = ("b''", "ConnectionResetError", "BrokenPipeError")

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
    return systemd.missing() or ("" if shutil.which(PYTHON) else f"no {PYTHON}")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[systemd.System]:
    """A systemd that runs the units."""
    if _missing():
        pytest.skip(_missing())
    files, root = tmp_path_factory.mktemp("units"), tmp_path_factory.mktemp("root")
    units(files)
    environ = {
        "UID_OF_ALICE": f"{UID}", "TREE": str(ROOT), "SITE": sysconfig.get_path("purelib"), "UNITS": str(files),
    }  # fmt: skip
    try:
        with systemd.booted(root, PREPARE, environ) as found:
            if found.run(PYTHON, "-c", "import sys; print(sys.version_info >= (3, 11))").strip() != "True":
                pytest.skip(f"{PYTHON} is older than 3.11")
            found.run("systemctl", "start", f"user@{UID}.service")
            found.run("systemctl", "enable", "--now", SERVER)  # ends when vmdns is ready
            yield found
    except OSError as error:
        pytest.skip(f"no systemd of one's own here: {error}")


def as_user(system: systemd.System, uid: int, *command: str) -> str:
    """The output of a command of this user, not confined."""
    user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    environ = {**ENVIRONMENT, "XDG_RUNTIME_DIR": f"/run/user/{UID}"}
    return system.run(*user, "env", *(f"{name}={value}" for name, value in environ.items()), *command, check=False)


def check_answers(system: systemd.System) -> None:
    """It answers at port 53, by UDP and TCP."""
    system.run(PYTHON, "-c", f"import sys; sys.path.insert(0, '{PLACE}/site')\n{QUERY}")


def status(system: systemd.System, pid: str) -> dict[str, str]:
    lines = system.run("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def log(system: systemd.System) -> str:
    """The lines of the server."""
    return system.run("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_UNIT={SERVER}")


def worker(system: systemd.System) -> str:
    """The process that the socket had started; '' if there is not exactly one."""
    lines = system.run("systemctl", "list-units", "--plain", "--no-legend", "--state=running", BESIDE).splitlines()
    return system.show(lines[0].split()[0], "MainPID") if len(lines) == 1 else ""


def test_it_answers_at_port_53_with_that_one_right(system: systemd.System) -> None:
    assert "127.0.0.1 port 53" in log(system)
    check_answers(system)
    found = status(system, system.show(SERVER, "MainPID"))
    assert set(found["Uid"].split()) == {str(UID)}
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (LOW_PORTS,) * 3
    assert found["CapAmb"] == "0" * 16, "nothing that it starts would get it"
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_it_starts_nothing_and_finds_virtualbox_gone_like_any_other(system: systemd.System) -> None:
    system.until(lambda: "VirtualBox is not installed here" in log(system), "VirtualBox is not found")
    pid = system.show(SERVER, "MainPID")
    assert system.run("cat", f"/proc/{pid}/task/{pid}/children").split() == []


def test_nothing_failed_for_want_of_a_right(system: systemd.System) -> None:
    for word in ("Permission", "permitted", "Traceback", "cannot", "Read-only", "Error"):
        assert word not in log(system), log(system)


def test_its_worker_is_not_confined_and_has_no_right_of_its_own(system: systemd.System) -> None:
    system.until(lambda: bool(worker(system)), "there is one worker, started by the socket, outside of the service")
    found = status(system, worker(system))
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "0"), "VirtualBox's setuid programs work below it"
    assert (found["CapPrm"], found["CapEff"], found["CapAmb"]) == ("0" * 16,) * 3
    files = system.run("sh", "-c", f"readlink /proc/{worker(system)}/fd/*").split()
    lines = system.run("sh", "-c", "cat /proc/net/tcp /proc/net/udp /proc/net/tcp6 /proc/net/udp6").splitlines()
    sockets = [f"socket:[{line.split()[9]}]" for line in lines if "local_address" not in line]
    assert len(sockets) >= 2, "the server's own sockets are there"
    assert not set(files) & set(sockets), "no socket of a network"


def test_a_worker_that_is_killed_or_hangs_is_followed_by_another(system: systemd.System) -> None:
    system.until(lambda: bool(worker(system)), "a worker")
    first = worker(system)
    system.run("kill", "-KILL", first)
    system.until(lambda: worker(system) not in ("", "0", first), "another worker")


def test_commands_of_its_user_reach_it_and_those_of_others_do_not(system: systemd.System) -> None:
    """T15: a real user, another real user, and root."""
    command = (PYTHON, "-P", "-m", "vmdns", "status", "--json")
    listeners = json.loads(as_user(system, UID, *command))["listeners"]
    assert [(one["address"], one["port"]) for one in listeners] == [("127.0.0.1", 53)]
    assert as_user(system, UID + 1, "sh", "-c", f"{shlex.join(command)}; echo $?").split()[-1] == "3", "none runs"
    place = system.run("sh", "-c", f"ls /run/user/{UID}/vmdns/*.sock").strip()
    modes = {str(path): "700" for path in Path(place).parents[:2]} | {place: "600"}
    for path, mode in modes.items():
        assert system.run("stat", "--format=%a", path).strip() == mode
    assert as_user(system, UID + 1, PYTHON, "-c", TALK, place) == "PermissionError"
    # Even where the folder and the socket are open to all.
    system.run("chmod", "777", *modes)
    try:
        assert as_user(system, UID + 1, PYTHON, "-c", TALK, place) in CLOSED
        assert "version" in as_user(system, UID, PYTHON, "-c", TALK, place)
        assert "version" in as_user(system, 0, PYTHON, "-c", TALK, place)
    finally:
        for path, mode in modes.items():
            system.run("chmod", mode, path)


def test_the_units_under_systemd(system: systemd.System) -> None:
    first = system.show(SERVER, "MainPID")
    system.run("kill", "-KILL", first)
    system.until(lambda: system.show(SERVER, "MainPID") not in ("0", first), "systemd starts it again")
    system.until(lambda: system.show(SERVER, "ActiveState") == "active", "it is ready again")
    check_answers(system)

    system.run("systemctl", "stop", f"user@{UID}.service")
    assert [system.show(one, "ActiveState") for one in (SERVER, SOCKET)] == ["inactive", "inactive"]
    system.run("systemctl", "start", f"user@{UID}.service")
    system.until(lambda: system.show(SERVER, "ActiveState") == "active", "it comes with its user's manager")
    system.run("systemctl", "disable", "--now", SERVER)
    assert shlex.split(system.run("sh", "-c", "ls /run/vmdns* 2>/dev/null || true")) == []
