"""A whole `vmdns run` in a process of its own, on loopback, without a VirtualBox or with a played one."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from tests.fakeprogram import SUFFIX, write_program
from tests.needs import needs_mount_namespace, needs_network_namespace
from tests.program import PATIENCE, Program


class Run(Program):
    """`vmdns run` at this address."""

    address = "127.0.0.1"

    def __init__(self, folder: Path, *options: str, environ: dict[str, str] | None = None, start: Any = None) -> None:
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VBOX_")},
            "HOME": str(folder),
            "USERPROFILE": str(folder),
            "XDG_RUNTIME_DIR": "",
            "XDG_STATE_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "LOCALAPPDATA": str(folder),
            "APPDATA": str(folder),
            **(environ or {}),
        }
        super().__init__([sys.executable, "-m", "vmdns", "run", *options], start=start, env=self.environ)

    @property
    def port(self) -> int:
        return int(self.saw("ready:").rpartition(" ")[2])

    def ask(self, name: str, kind: str = "A", tcp: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=True)
        return (dns.query.tcp if tcp else dns.query.udp)(query, self.address, port=self.port, timeout=5)

    def addresses(self, name: str, kind: str = "A", tcp: bool = False) -> list[str]:
        return sorted(str(rdata) for rrset in self.ask(name, kind, tcp).answer for rdata in rrset)

    def until(self, name: str, *wanted: str, kind: str = "A") -> None:
        end = time.monotonic() + PATIENCE
        while (found := self.addresses(name, kind)) != sorted(wanted):
            assert time.monotonic() < end, f"{name} {kind}: {found}, not {wanted}; it said:\n" + "\n".join(self.lines)
            time.sleep(0.02)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vmdns", *words],
            env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture
def runs(short: Path) -> Iterator[Any]:
    made: list[Run] = []

    def run(*options: str, environ: dict[str, str] | None = None) -> Run:
        listen = () if any(option == "--listen" for option in options) else ("--listen", "127.0.0.1:0")
        made.append(Run(short, *listen, *options, environ=environ))
        return made[-1]

    yield run
    for one in made:
        one.stop()


needs_signals = pytest.mark.skipif(os.name != "posix", reason="Windows has none of these signals")


def _config(folder: Path, text: str) -> Path:
    path = folder / "given.toml"
    path.write_text(textwrap.dedent(text))
    return path


def test_config_shows_the_options_of_the_running_server(runs: Any, short: Path) -> None:
    config = _config(short, "hosts = false\n")
    run = runs("--config", str(config), "--upstream", "127.0.0.1:9")
    port = run.port
    shown = run.command("config")
    assert shown.returncode == 0, shown.stderr
    assert '# Set by --upstream\nupstreams = ["127.0.0.1:9"]\n' in shown.stdout
    assert '# Set by --listen\nlisten = ["127.0.0.1:0"]\n' in shown.stdout
    assert f"# Set by {config}, line 1\nhosts = false\n" in shown.stdout
    before = len(run.lines)
    config.write_text("hosts = 1\n")
    run.saw("stays in force", before)
    wrong = run.command("config")
    assert (wrong.returncode, "hosts = false" in wrong.stdout) == (1, True)
    assert f"{config}, line 1: hosts: true or false is expected" in wrong.stderr
    assert run.stop() == 0
    alone = run.command("config", "--json")
    assert json.loads(alone.stdout)["running"] is False
    assert "no vmdns runs; these are the defaults" in alone.stderr
    assert port


def test_doctor_finds_nothing_of_the_server_once_it_runs(runs: Any) -> None:
    def findings() -> list[tuple[str, str]]:
        found = json.loads(run.command("doctor", "--json").stdout)["findings"]
        return [(one["text"], one["command"]) for one in found if one["level"] != "ok"]

    run = runs("--upstream", "192.0.2.1")
    run.saw("ready:")
    assert not [text for text, _ in findings() if "no vmdns runs" in text or "none is known" in text]
    run.stop()
    assert ("no vmdns runs, so no names are answered", "vmdns run") in findings()


def test_doctor_and_status_agree_on_what_is_wrong(runs: Any, short: Path) -> None:
    config = _config(short, "hosts = false\n")
    run = runs("--config", str(config), "--upstream", "127.0.0.1:9")
    run.saw("ready:")
    before = len(run.lines)
    config.write_text("hosts = 1\n")
    run.saw("stays in force", before)
    done = run.command("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["well"]) == (1, False)
    texts = [one["text"] for one in found["findings"] if one["level"] == "problem"]
    assert any("hosts: true or false is expected" in text for text in texts)
    assert any("is not installed" in text for text in texts) or len(texts) == 1
    assert json.loads(run.command("status", "--json").stdout)["verdict"].startswith(f"{len(texts)} problem")
    assert found["verdict"] == run.command("doctor").stdout.splitlines()[-1].rstrip(".")


def test_a_config_is_followed_and_a_broken_one_changes_nothing(runs: Any, short: Path) -> None:
    config = _config(short, 'records = "www A 192.168.56.200"\n')
    run = runs("--config", str(config))
    run.until("www.local", "192.168.56.200")
    _config(short, 'records = "www A 192.168.56.201"\n')
    run.until("www.local", "192.168.56.201")
    _config(short, 'recods = "www A 192.168.56.202"\n')
    said = run.saw("stays in force")
    assert "did you mean records" in said
    assert run.addresses("www.local") == ["192.168.56.201"]
    assert "did you mean records" in run.command("status").stdout
    _config(short, 'zones = ["lab.test"]\nrecords = "www A 192.168.56.203"\n')
    run.until("www.lab.test", "192.168.56.203")
    assert run.ask("www.local").rcode() == dns.rcode.NXDOMAIN
    config.unlink()
    run.until("www.lab.test")
    assert run.ask("local", "SOA").answer


@needs_signals
def test_a_configuration_that_is_no_file_stops_no_reload(runs: Any, short: Path) -> None:
    config = _config(short, 'records = "www A 192.168.56.200"\n')
    run = runs("--config", str(config))
    run.until("www.local", "192.168.56.200")
    for place in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir):
        before = len(run.lines)
        config.unlink()
        place(config)
        assert "the configuration before stays in force" in run.saw("cannot be read: ", before)
        assert run.addresses("www.local") == ["192.168.56.200"]
        config.rmdir() if config.is_dir() else config.unlink()
        _config(short, 'records = "www A 192.168.56.201"\n')
        run.until("www.local", "192.168.56.201")
        _config(short, 'records = "www A 192.168.56.200"\n')
        run.until("www.local", "192.168.56.200")


@needs_signals
def test_signals_reload_and_log_the_status_and_none_ends_it(runs: Any, short: Path) -> None:
    config = _config(short, "hosts = false\n")
    run = runs("--config", str(config))
    run.saw("ready")
    for _ in range(2):
        before = len(run.lines)
        run.process.send_signal(signal.SIGHUP)
        run.saw(f"reading the configuration again: {config}", before)
    before = len(run.lines)
    _config(short, "hosts = 1\n")
    run.saw("stays in force", before)
    before = len(run.lines)
    run.process.send_signal(signal.SIGHUP)
    run.saw("hosts: true or false is expected, without quotes, not 1; the configuration before stays", before)
    run.process.send_signal(signal.SIGUSR2)
    run.process.send_signal(signal.SIGUSR1)
    run.saw(f"process {run.process.pid}", before)
    run.saw("LISTENER", before)
    assert run.addresses("localhost") == ["127.0.0.1"]
    assert run.stop(signal.SIGINT) == 0


@needs_signals
def test_it_ends_with_its_terminal(short: Path) -> None:
    """As any program in a window that is closed: it must not go on unseen, with the port."""
    import pty

    ours, theirs = pty.openpty()

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        how |= {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
        lead = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        process = subprocess.Popen([sys.executable, "-c", lead, *command], **how)
        process.stdout = open(os.devnull, "rb")  # noqa: SIM115
        return process

    def until(text: bytes) -> None:
        shown = b""
        while text not in shown:
            assert select.select([ours], [], [], PATIENCE)[0], shown
            shown += os.read(ours, 4096)

    try:
        run = Run(short, "--listen", "127.0.0.1:0", start=start)
        os.close(theirs)
        until(b"ready")
        run.process.send_signal(signal.SIGHUP)
        until(b"reading the configuration again")
        assert run.process.poll() is None
    finally:
        os.close(ours)
    assert run.process.wait(PATIENCE) == 0


def test_a_configuration_folder_that_is_made_later(runs: Any, short: Path) -> None:
    run = runs(environ={"XDG_CONFIG_HOME": str(short / "new"), "APPDATA": str(short / "new")})
    run.saw("ready")
    folder = short / "Library/Application Support" if sys.platform == "darwin" else short / "new"
    for address in ("192.168.56.200", "192.168.56.201"):
        (folder / "vmdns").mkdir(parents=True)
        (folder / "vmdns" / "vmdns.toml").write_text(f'records = "www A {address}"\n')
        run.until("www.local", address)
        shutil.rmtree(folder)
        run.until("www.local")


def test_an_address_that_is_taken_is_named_and_the_others_serve(runs: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder, socket.create_server(("127.0.0.1", 0)) as stream:
        taken = stream.getsockname()[1]  # free for TCP, so that nobody else has it later
        holder.bind(("127.0.0.1", taken))
        run = runs("--listen", f"127.0.0.1:{taken}", "--listen", "127.0.0.1:0")
        said = run.saw("is held by")
        assert f"127.0.0.1 port {taken}" in said
        if sys.platform == "linux":
            assert f"(pid {os.getpid()})" in said
        assert run.addresses("localhost") == ["127.0.0.1"]
        assert "is held by" in run.command("status").stdout
        before = len(run.lines)
    run.saw(f"listening on 127.0.0.1 port {taken}", before)  # taken over once it is free


def test_nothing_to_listen_on_ends_it(runs: Any) -> None:
    run = runs("--listen", "203.0.113.7:0")
    assert run.process.wait(PATIENCE) == 1
    assert "this host has no address 203.0.113.7" in run.saw("cannot be bound")


def test_a_second_one_serves_and_says_whom_commands_talk_to(runs: Any) -> None:
    first = runs()
    first.saw("ready:")
    second = runs()
    assert str(first.process.pid) in second.saw("another vmdns")
    assert second.addresses("localhost") == ["127.0.0.1"]


def play_virtualbox(folder: Path, name: str, vms: str) -> Path:
    """A played VBoxManage in a folder for VBOX_PROGRAM_PATH. vms: a file with the lines of `list vms`; a VM whose UUID
    begins with N has the address 192.168.56.N."""
    program = folder / "installed"
    program.mkdir()
    (folder / "VirtualBox").mkdir()
    source = f"""
        import re, sys
        words = " ".join(sys.argv[1:])
        sys.stdout.reconfigure(newline="\\n")
        uuid = next((one for one in sys.argv[1:] if re.fullmatch("[0-9a-f]{{8}}(-[0-9a-f]+)+", one)), "")
        if "--version" in words:
            print("7.2.22r175245")
        elif "list vms" in words or "list runningvms" in words:
            print(open({vms!r}, encoding="utf-8").read(), end="")
        elif "showvminfo" in words:
            print('name="{name}"\\ngroups="/"\\nUUID="' + uuid + '"\\nVMState="running"\\nhostonlyadapter1="vboxnet0"')
            print('macaddress1="080027AABB0' + uuid[0] + '"\\ncableconnected1="on"\\nnic1="hostonly"')
        elif "guestproperty" in words:
            print("Name: /VirtualBox/HostInfo/VBoxVer, value: 7.2.22, timestamp: 1795376490, flags: TRANSIENT")
            for key, value in ("MAC", "080027AABB0" + uuid[0]), ("V4/IP", "192.168.56." + uuid[0]), ("Status", "Up"):
                print(f"Name: /VirtualBox/GuestInfo/Net/0/{{key}}, value: {{value}}, timestamp: 1795376496, flags: ")
        """
    write_program(program / "VBoxManage", textwrap.dedent(source))
    (program / f"VBoxSVC{SUFFIX}").write_text("")
    return program


OLD, NEW = "4b2a7c4e-1111-4222-8333-444455556666", "5b2a7c4e-1111-4222-8333-444455556666"


def test_virtualbox_is_picked_up_when_it_appears_and_missed_when_it_goes(runs: Any, short: Path) -> None:
    """A played VBoxManage stands for VirtualBox appearing; the live tests show the real one."""
    if any(Path(place, "VBoxSVC").exists() for place in ("/usr/lib/virtualbox", "/opt/VirtualBox")):
        pytest.skip("a real VirtualBox is installed here, which would be found first")
    run = runs("--reader", "vboxmanage", environ={"VBOX_PROGRAM_PATH": str(short / "installed")})
    run.saw("VirtualBox is not installed here")
    assert run.addresses("localhost") == ["127.0.0.1"]
    (short / "vms").write_text(f'"Web" {{{OLD}}}\n')
    program = play_virtualbox(short, "Web", str(short / "vms"))
    run.until("web.local", "192.168.56.4")
    run.saw("VirtualBox 7.2.22")
    assert "web.local" in run.command("names").stdout
    said = run.command("ask", "Web").stdout
    assert "192.168.56.4" in said
    assert "reported by Guest Additions" in said
    before = len(run.lines)
    (program / f"VBoxSVC{SUFFIX}").unlink()
    (program / f"VBoxManage{SUFFIX}").unlink()
    run.saw("its last names stay in force", before)
    assert run.addresses("web.local") == ["192.168.56.4"]


def test_a_vm_keeps_its_name_over_a_restart_of_vmdns(runs: Any, short: Path) -> None:
    """Also from an older VM with a lower UUID that is registered meanwhile. A damaged file is no error."""
    vms = short / "vms"
    program = play_virtualbox(short, "web", str(vms))
    options = "--reader", "vboxmanage"
    environ = {"VBOX_PROGRAM_PATH": str(program)}
    vms.write_text(f'"web" {{{NEW}}}\n')
    run = runs(*options, environ=environ)
    run.until("web.local", "192.168.56.5")
    assert run.stop() == 0
    (file,) = (short / "vmdns").glob("names-*.json")
    assert json.loads(file.read_text()) == {"names": {"web": NEW}}

    vms.write_text(f'"web" {{{OLD}}}\n"web" {{{NEW}}}\n')
    run = runs(*options, environ=environ)
    run.until("web-2.local", "192.168.56.4")
    assert run.addresses("web.local") == ["192.168.56.5"]
    assert run.saw(f"is web-2, because VM 'web' ({NEW}) has the name web").startswith(f"! VM 'web' ({OLD})")
    shown = run.command("names").stdout
    assert f"VM 'web' ({OLD}) is web-2, because VM 'web' ({NEW}) has the name web; rename one" in shown
    remedy = f"VBoxManage setextradata {OLD} vmdns/names web-2"
    for name in ("web", "web-2"):
        shown = run.command("ask", name).stdout
        assert f"VM 'web' ({NEW}) has the name web" in shown, shown
        assert remedy in shown, shown
    assert remedy in run.command("doctor").stdout
    assert run.stop() == 0

    file.write_text("{")
    run = runs(*options, environ=environ)
    run.saw(f"{file} is not used, and will be written again: it is damaged")
    run.until("web.local", "192.168.56.4")
    assert run.stop() == 0
    assert json.loads(file.read_text()) == {"names": {"web": OLD, "web-2": NEW}}


@needs_network_namespace
def test_port_53_that_may_not_be_had_and_an_address_that_comes_later(short: Path) -> None:
    """Without the right to low ports, in a namespace of its own: 5300 serves; an address is taken once it is made, and
    port 53 once the command that the message names was run."""
    script = f"""
        ip link set lo up
        exec setpriv --bounding-set -net_bind_service \\
            env HOME={short} XDG_STATE_HOME={short} XDG_RUNTIME_DIR= {sys.executable} -m vmdns run \\
            --listen 127.0.0.1 --listen 198.18.53.1:5353
    """

    def start(*_: Any, **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["unshare", "--net", "sh", "-ec", script], **how)

    run = Run(short, start=start)
    try:
        run.saw("ready")
        inside = ("nsenter", "--net", "--target", str(run.process.pid))
        assert "listening on 127.0.0.1 port 5300 instead of 53" in run.saw("listening on 127.0.0.1")
        assert run.saw("this host has no address 198.18.53.1")
        subprocess.run([*inside, "ip", "addr", "add", "198.18.53.1/32", "dev", "lo"], check=True)
        run.saw("listening on 198.18.53.1 port 5353 (")
        command = run.saw("may not be bound").split("`")[1].removeprefix("sudo ").split()
        assert command[:2] == ["sysctl", "-w"]
        allowed = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
        if allowed.returncode:
            pytest.skip(f"net.ipv4.ip_unprivileged_port_start cannot be set here: {allowed.stderr.strip()}")
        run.saw("listening on 127.0.0.1 port 53 (")
        # Both ports answer: this computer may have been told of 5300 (`vmdns host`).
        ask = (
            "import dns.message, dns.query; query = dns.message.make_query('localhost', 'A'); "
            "[print(dns.query.udp(query, '127.0.0.1', port=port, timeout=5).answer[0]) for port in (53, 5300)]"
        )
        answered = subprocess.run([*inside, sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert answered.stdout.count("IN A 127.0.0.1") == 2
    finally:
        run.stop()


@needs_mount_namespace
def test_root_without_vms_is_told_whose_vms_there_are(short: Path) -> None:
    """With a /home of its own in a mount namespace."""
    isolate = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /home; exec "$@"', "sh"]
    if any(path.startswith("/home/") for path in (sys.executable, sys.base_prefix, os.getcwd())):
        pytest.skip("this Python lies below /home")
    if subprocess.run([*isolate, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    program = short / "virtualbox"
    program.mkdir()
    (program / "VBoxSVC").write_text("")
    (program / "VBoxManage").write_text('#!/bin/sh\ncase "$*" in *--version*) echo 7.2.22r175245 ;; esac\n')
    (program / "VBoxManage").chmod(0o755)
    folder = "/home/dev/.config/VirtualBox"
    fill = (
        f"mkdir -p {folder}; echo '<MachineEntry' >{folder}/VirtualBox.xml; "
        f"{sys.executable} -m vmdns names --reader vboxmanage; "
    )

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*isolate, "sh", "-c", f'{fill} exec "$@"', "sh", *command], **how)

    environ = {"VBOX_PROGRAM_PATH": str(program)}
    run = Run(short, "--listen", "127.0.0.1:0", "--reader", "vboxmanage", environ=environ, start=start)
    try:
        run.saw("ready:")
        after = next(number for number, line in enumerate(run.lines) if line.startswith("ready:"))
        said = run.saw(f"has no VMs, and dev has (in {folder})", after)
        assert said.endswith("run vmdns as dev")
        assert f"vmdns: {said}" in run.lines[:after]  # of `vmdns names`
    finally:
        run.stop()
