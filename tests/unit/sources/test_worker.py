"""The worker process where there is no VirtualBox: it tells of the host all the same, and ends with its input."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vmdns.sources.installation import Installation
from vmdns.sources.reader import VirtualBoxInfo, VirtualBoxLost
from vmdns.sources.worker import Worker, WorkerOutput, WorkerSources, open_reader

PROGRAM = """
from vmdns.sources import worker
from vmdns.sources import worker
worker.ABSENT_SECONDS = worker.BEAT_SECONDS = 0.05
worker.main(worker.WorkerSources(find=lambda environ: None))
"""
LEASES_ALONE = """
import time
from vmdns.sources import worker
worker.main(worker.WorkerSources(find=lambda environ: True, open_reader=lambda *_: time.sleep(60)))
"""
OPTIONS = {"reader": "auto", "home": None, "interval": 30.0, "failures": 0, "pause": 0.0}


@contextmanager
def started(program: str, options: dict[str, Any] = OPTIONS) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    say(process, options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with started(PROGRAM) as process:
        yield process


def say(process: subprocess.Popen[bytes], value: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()


def until(process: subprocess.Popen[bytes], key: str, value: object) -> list[dict[str, Any]]:
    """The messages up to the one in which that key has that value."""
    assert process.stdout is not None
    messages = []
    for line in process.stdout:
        messages.append(json.loads(line))
        if messages[-1].get(key) == value:
            return messages
    raise AssertionError(f"it ended, and said {messages}")


def test_it_begins_as_the_supervisor_starts_it() -> None:
    with started("import runpy; runpy.run_module('vmdns.sources.worker', run_name='__main__')") as process:
        assert until(process, "pid", process.pid) == [{"pid": process.pid}]


def test_without_virtualbox(worker: subprocess.Popen[bytes]) -> None:
    messages = until(worker, "beat", 3)
    assert [one for one in messages if "absent" in one] == [{"absent": True}]
    assert not any("lost" in one for one in messages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the names of interfaces are those of Linux")
def test_the_host_is_reported_without_virtualbox(worker: subprocess.Popen[bytes]) -> None:
    facts = until(worker, "put", "addresses")[-1]["facts"]
    loopback = {"is": "HostAddress", "interface": "lo", "prefix": "127.0.0.1/8", "alias": ""}
    assert facts["address:lo 127.0.0.1/8"] == loopback
    until(worker, "put", "neighbours")
    say(worker, ["nonsense"])
    say(worker, {"look": "neighbours"})
    until(worker, "looked", "neighbours")


def test_it_ends_with_its_input(worker: subprocess.Popen[bytes]) -> None:
    until(worker, "absent", True)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(10) == 0


def test_of_a_lease_file_only_what_changed_is_reported_again(tmp_path: Path) -> None:
    def write(*issued: int) -> None:
        entries = (
            f'<Lease mac="08:00:27:00:00:0{n}" state="acked">'
            f'<Address value="10.0.2.{4 + n}"/><Time issued="{at}" expiration="600"/></Lease>'
            for n, at in enumerate(issued)
        )
        fresh = tmp_path / "lab-Dhcpd.leases-tmp"
        fresh.write_text(f'<?xml version="1.0"?>\n<Leases version="1.0">{"".join(entries)}</Leases>\n', "utf-8")
        fresh.replace(tmp_path / "lab-Dhcpd.leases")

    write(100, 200, 300)
    with started(LEASES_ALONE, {**OPTIONS, "home": str(tmp_path)}) as worker:
        assert len(until(worker, "put", "leases")[-1]["facts"]) == 3
        write(100, 201)
        *_, patch = until(worker, "patch", "leases")
    assert {key: fact and fact["issued"] for key, fact in patch["facts"].items()} == {
        "lease:lab 080027000001 10.0.2.5": 201.0,
        "lease:lab 080027000002 10.0.2.6": None,
    }


class _Api:
    """Stands for the reader through the API, of a VBoxSVC that serves the folder `home`."""

    home = ""
    closed = False

    def __init__(self, *_: object) -> None:
        self.found = VirtualBoxInfo("7.2.22", "api", self.home)

    def close(self) -> None:
        type(self).closed = True


@pytest.mark.parametrize("choice", ["api", "auto"])
def test_a_vboxsvc_of_another_home_is_let_go_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """A user has one VBoxSVC: it serves its own folder whatever a client names."""
    for name in ("served", "named"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("vmdns.sources.virtualbox_reader.ApiReader", _Api)
    monkeypatch.setattr(_Api, "home", str(tmp_path / "served"))
    monkeypatch.setattr(_Api, "closed", False)
    installation = Installation(tmp_path, tmp_path / "VBoxManage")
    options = {"reader": choice, "interval": 30.0, "failures": 0}
    monkeypatch.delenv("VBOX_USER_HOME", raising=False)
    assert open_reader(installation, options, lambda: None)[0].found.home == str(tmp_path / "served")
    monkeypatch.setenv("VBOX_USER_HOME", str(tmp_path / "link"))
    if sys.platform != "win32":
        (tmp_path / "link").symlink_to(tmp_path / "served")
        assert open_reader(installation, options, lambda: None)[0].found.home == str(tmp_path / "served")
    monkeypatch.setenv("VBOX_USER_HOME", str(tmp_path / "named"))
    assert not _Api.closed
    with pytest.raises(VirtualBoxLost) as caught:
        open_reader(installation, {**options, "failures": 99}, lambda: None)
    assert caught.value.pause > 5.0, "it ends five seconds after its last client"
    assert str(caught.value).startswith(f"VBoxSVC runs with the settings in {tmp_path / 'served'} and not in")
    assert _Api.closed


def test_a_home_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    options = {"reader": "auto", "home": str(tmp_path / "none"), "interval": 30.0, "failures": 0}
    sources = WorkerSources(find=lambda environ: Installation(tmp_path, tmp_path / "VBoxManage"))
    with pytest.raises(VirtualBoxLost, match="there is no folder"):
        Worker(options, WorkerOutput(io.BytesIO()), sources).read_virtualbox()
    assert list(tmp_path.iterdir()) == []


PARENT = f"""
import json, sys
from vmdns.sources.supervisor import Supervisor
process = Supervisor("auto", None, 30.0, lambda message: None, [sys.executable, "-c", {PROGRAM!r}]).start(0.0, 0)
for line in process.stdout:
    message = json.loads(line)
    if "pid" in message:
        pid = message["pid"]
    if "beat" in message:
        open(sys.argv[1], "w").write(f"{{pid}}.")
"""


@pytest.mark.skipif(sys.platform != "win32", reason="of Windows; of Linux in tests/contract/faults")
@pytest.mark.parametrize("python", ["python.exe", "pythonw.exe"])
def test_it_ends_with_a_server_that_was_killed(python: str, tmp_path: Path) -> None:
    """Also with one that has no console, as Task Scheduler starts it."""
    import psutil

    found = tmp_path / "pid"
    program = str(Path(sys.executable).with_name(python))
    server = subprocess.Popen([program, "-c", PARENT, str(found)], creationflags=subprocess.DETACHED_PROCESS)
    try:
        while not (found.exists() and found.read_text().endswith(".")):
            assert server.poll() is None
            time.sleep(0.05)
        worker = psutil.Process(int(found.read_text()[:-1]))
        assert worker.is_running()
    finally:
        server.kill()
    worker.wait(20)
