"""The service as its unit confines it: what systemd-analyze says of the unit, and a server that really runs so.

The server runs as another user with the one capability, and none of the system calls, sockets and folders that its
unit takes away; beside it, outside of that, `systemd-socket-activate` starts its worker, as systemd does by the socket
unit. No systemd runs here; test_systemd.py has one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import no_mount_namespace
from tests.unit.host.confine import allowed, directives
from vmdns.host import systemd
from vmdns.host.service_program import ServiceOwner, ServiceProgram

pytestmark = pytest.mark.slow
UID = 54321
PATIENCE = 60.0
NEEDED = ("systemd-analyze", "systemd-socket-activate", "setpriv", "unshare", "nsenter", "ip")
ALICE = ServiceProgram(ServiceOwner("alice", 1000, Path("/home/alice")), ("/bin/sh", "-c", "x"), (("LANG", "C.UTF-8"),))

ANALYZE = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


def units(folder: Path, program: ServiceProgram = ALICE) -> list[Path]:
    """The three unit files."""
    made = dict(reversed(systemd.unit_files(program).items()))
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in made]


def analyze(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False, env={**os.environ}
    )
    return done.stdout + done.stderr


@ANALYZE
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    server, socket, beside = units(
        tmp_path, ServiceProgram(ServiceOwner("root", 0, Path("/root")), ("/bin/sh", "-c", "a $HOME 5% ;"))
    )
    said = analyze("verify", "--man=no", str(server), str(socket))
    assert [line for line in said.splitlines() if "vmdns" in line] == []
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
def test_the_calls_that_are_left(tmp_path: Path) -> None:
    left = allowed(directives(systemd.unit_files(ALICE)["vmdns-alice.service"]))
    assert {"recvmmsg", "sendmmsg", "inotify_init1", "kill", "prlimit64", "execve", "futex", "sched_setattr"} <= left
    assert not {"mount", "ptrace", "bpf", "capset", "setuid", "chown", "setrlimit", "kexec_load", "reboot"} & left
    assert "setpriority" not in left


def may_be_played() -> str:
    if no_mount_namespace():
        return no_mount_namespace()
    missing = [one for one in NEEDED if shutil.which(one) is None]
    if missing:
        return f"no {missing[0]}"
    try:
        import ctypes

        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return "no libseccomp"
    return ""


ASK = """
import dns.message, dns.query
print(dns.query.{way}(dns.message.make_query("local", "SOA"), "127.0.0.1", timeout=5))
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

# All in a network of its own, so that port 53 is free; what is below ends when its input does.
SCENE = """
    set -eu
    ip link set lo up
    mkdir -p run/vmdns base site tree
    # Where another user can reach them, wherever they are.
    mount --bind {base} base
    mount --bind {site} site
    mount --bind {tree} tree
    chown -R {uid}:{uid} run home
    export HOME={folder}/home XDG_RUNTIME_DIR={folder}/run VBOX_PROGRAM_PATH={folder} VBOX_USER_HOME={folder}/home
    export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={folder}/tree:{folder}/site LD_LIBRARY_PATH={folder}/base/lib
    setpriv="$(command -v setpriv) --reuid={uid} --regid={uid} --clear-groups"
    systemd-socket-activate --accept --inetd -l {folder}/beside.sock -E HOME -E PATH -E VBOX_PROGRAM_PATH \\
        -E VBOX_USER_HOME -E PYTHONPATH -E PYTHONDONTWRITEBYTECODE -E LD_LIBRARY_PATH \\
        $setpriv {python} -P -m vmdns.daemon.worker_service 2>activate.log &
    activate=$!
    for _ in $(seq 100); do [ -S beside.sock ] && break; sleep 0.1; done
    chown {uid} beside.sock
    chmod 600 beside.sock
    export VMDNS_BESIDE={folder}/beside.sock
    unshare --mount {python} {confine} {unit} {uid} {python} -P -m vmdns run --listen 127.0.0.1:53 >>server.log 2>&1 &
    echo $! $activate
    cat >/dev/null
    kill -TERM $! 2>/dev/null || true
    wait $! || true
    kill $activate
"""


class Scene:
    """A confined server and what is beside it; a shell in the same network is at hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "run").mkdir(mode=0o700)
        (folder / "home").mkdir()
        (folder / "server.log").touch()
        folder.chmod(0o755)
        program = ServiceProgram(ServiceOwner("alice", UID, folder), ("/bin/true",))
        unit = folder / "unit"
        text = systemd.unit_files(program)["vmdns-alice.service"]
        unit.write_text(text.replace(f"-/run/user/{UID}\n", f"-{folder}/run\n"))
        self.python = f"{folder}/base/bin/python3"
        scene = textwrap.dedent(SCENE).format(
            uid=UID,
            folder=folder,
            python=self.python,
            unit=unit,
            confine=f"{folder}/tree/tests/unit/host/confine.py",
            base=sys.base_prefix,
            site=Path(pytest.__file__).parents[1],
            tree=Path(__file__).resolve().parents[3],
        )
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", scene],
            cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline().split()
        assert first, "the scene could not be set"
        self.server = int(first[0])
        self.until(lambda: "ready:" in self.log, "ready")

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def until(self, condition: object, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():  # type: ignore[operator]
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, f"not {what}; it said:\n{self.log}"
            time.sleep(0.05)

    def run(self, *command: str, uid: int = UID) -> subprocess.CompletedProcess[str]:
        """In the network and mounts of the scene, but not confined, as this user."""
        environ = {"HOME": f"{self.folder}/home", "XDG_RUNTIME_DIR": f"{self.folder}/run", "PATH": os.environ["PATH"],
                   "PYTHONPATH": f"{self.folder}/tree:{self.folder}/site", "PYTHONDONTWRITEBYTECODE": "1",
                   "LD_LIBRARY_PATH": f"{self.folder}/base/lib"}  # fmt: skip
        setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return subprocess.run(
            ["nsenter", "--net", "--mount", f"--target={self.process.pid}", *setpriv, *command],
            env=environ, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def worker(self) -> int:
        """The process that the socket had started."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                mine = f"VBOX_USER_HOME={self.folder}/home".encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if mine and b"vmdns.daemon.worker_service" in words and b"systemd-socket-activate" not in words:
                return int(process.name)
        return 0

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    why = may_be_played()
    if why:
        pytest.skip(why)
    folder = Path("/tmp") / f"v{os.getpid()}"
    folder.mkdir(mode=0o755)
    made = None
    try:
        made = Scene(folder)
        yield made
    finally:
        if made is not None:
            made.close()
        # Not what is mounted there, should it be mounted still.
        if not os.path.ismount(folder / "tree"):
            shutil.rmtree(folder)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_answers_at_port_53_with_that_one_right(scene: Scene) -> None:
    assert "127.0.0.1 port 53" in scene.log
    for way in ("udp", "tcp"):
        assert "hostmaster.local." in scene.run(scene.python, "-c", ASK.format(way=way)).stdout
    found = status(scene.server)
    assert set(found["Uid"].split()) == {str(UID)}
    net_bind_service = f"{1 << 10:016x}"
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (net_bind_service,) * 3
    assert found["CapAmb"] == "0" * 16, "nothing that it starts would get it"
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_nothing_failed_for_want_of_a_right(scene: Scene) -> None:
    for word in ("Permission", "permitted", "Traceback", "cannot", "Read-only", "Error"):
        assert word not in scene.log, scene.log


def test_its_worker_is_not_confined_and_has_no_right_of_its_own(scene: Scene) -> None:
    scene.until(scene.worker, "a worker")
    found = status(scene.worker())
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "0"), "VirtualBox's setuid programs work below it"
    assert (found["CapPrm"], found["CapEff"], found["CapAmb"]) == ("0" * 16,) * 3
    inodes = {os.readlink(one) for one in Path(f"/proc/{scene.worker()}/fd").iterdir()}
    held = [f"socket:[{line.split()[9]}]" for name in ("tcp", "udp", "tcp6", "udp6")
            for line in Path(f"/proc/{scene.server}/net/{name}").read_text().splitlines()[1:]]  # fmt: skip
    assert len(held) >= 2, "the server's own sockets are there"
    assert not inodes & set(held), "no socket of a network"


def test_it_starts_nothing_and_finds_virtualbox_gone_like_any_other(scene: Scene) -> None:
    scene.until(lambda: "VirtualBox is not installed here" in scene.log, "told of VirtualBox")
    children = Path(f"/proc/{scene.server}/task/{scene.server}/children").read_text().split()
    assert children == []


def test_a_worker_that_is_killed_or_hangs_is_followed_by_another(scene: Scene) -> None:
    scene.until(scene.worker, "a worker")
    first = scene.worker()
    os.kill(first, signal.SIGKILL)
    scene.until(lambda: scene.worker() not in (0, first), "another worker")


def test_commands_of_its_user_reach_it_and_those_of_others_do_not(scene: Scene) -> None:
    """T15: a real user, another real user, and root."""
    command = (scene.python, "-P", "-m", "vmdns", "status", "--json")
    listeners = json.loads(scene.run(*command).stdout)["listeners"]
    assert [(one["address"], one["port"]) for one in listeners] == [("127.0.0.1", 53)]
    other = scene.run(*command, uid=UID + 1)
    assert other.returncode == 3, "for another user none runs"
    (place,) = (scene.folder / "run" / "vmdns").glob("*.sock")
    assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    refused = scene.run(scene.python, "-c", TALK, str(place), uid=UID + 1)
    assert refused.stdout == "PermissionError"
    # Even where somebody opened the folder and the socket to all.
    for path in (place.parent.parent, place.parent, place):
        path.chmod(0o777)
    try:
        assert scene.run(scene.python, "-c", TALK, str(place), uid=UID + 1).stdout in CLOSED
        assert "version" in scene.run(scene.python, "-c", TALK, str(place), uid=UID).stdout
        assert "version" in scene.run(scene.python, "-c", TALK, str(place), uid=0).stdout
    finally:
        for path, mode in ((place, 0o600), (place.parent, 0o700), (place.parent.parent, 0o700)):
            path.chmod(mode)
