"""What `vmdns doctor` gathers on this host: recorded outputs, and a resolver and an upstream of our own."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from vmdns.commands import doctor
from vmdns.state.findings import Finding

UFW = """\
Status: active

To                         Action      From
--                         ------      ----
22/tcp                     ALLOW       Anywhere
{}22/tcp (v6)              ALLOW       Anywhere (v6)
"""
ALLOW = "sudo ufw allow to 192.168.56.1 port 53"
FIREWALLD = "public (default, active)\n  target: default\n  services: {}\n  ports: \n  rich rules: \n{}"
ACCEPTED = '\trule family="ipv{}" destination address="{}" service name="dns" accept\n'
RICH = (
    "sudo firewall-cmd --permanent --add-rich-rule='rule family=ipv{} destination address={} service name=dns accept'"
)
RICH6 = RICH.format(6, "fd00::1")
RELOAD = "sudo firewall-cmd --reload"


@pytest.mark.parametrize(
    ("ufw", "firewalld", "command"),
    [
        ("", "", None),
        ("Status: inactive\n", "", None),
        (UFW.format(""), "", f"{ALLOW} && sudo ufw allow to fd00::1 port 53"),
        (UFW.format("53                         ALLOW       Anywhere\n"), "", None),
        (UFW.format("53/udp                     ALLOW       192.168.56.0/24\n"), "", None),
        (UFW.format("fd00::1 53                 ALLOW       Anywhere (v6)\n"), "", ALLOW),
        (UFW.format("fd00::1 53  ALLOW  Anywhere (v6)\n192.168.56.1 53  ALLOW  Anywhere\n"), "", None),
        ("", FIREWALLD.format("ssh", ""), f"{RICH.format(4, '192.168.56.1')} && {RICH6} && {RELOAD}"),
        ("", FIREWALLD.format("ssh", ACCEPTED.format(4, "192.168.56.1")), f"{RICH6} && {RELOAD}"),
        ("", FIREWALLD.format("", ACCEPTED.format(4, "192.168.56.1") + ACCEPTED.format(6, "fd00::1")), None),
        ("", FIREWALLD.format("dns ssh", ""), None),
    ],
)  # fmt: skip
def test_firewalls_of_linux(ufw: str, firewalld: str, command: str | None) -> None:
    found = doctor.linux_firewall(ufw, firewalld, ["192.168.56.1", "fd00::1"])
    assert (found and found[1]) == command
    assert doctor.linux_firewall(ufw, firewalld, []) is None


@pytest.mark.skipif(sys.platform != "linux", reason="ufw is a program of Linux")
def test_a_firewall_that_speaks_german(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ufw = tmp_path / "ufw"
    ufw.write_text('#!/bin/sh\nif [ "$LC_ALL" = C ]; then echo "Status: active"; else echo "Status: Aktiv"; fi\n')
    ufw.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert doctor.firewall(["192.168.56.1"], 0) == ("ufw", "sudo ufw allow to 192.168.56.1 port 53")


def test_a_firewall_matters_where_guests_ask_from_outside() -> None:
    addresses = ["127.0.0.1", "::1", "198.18.53.1", "192.168.56.1"]
    status = {"listeners": [{"address": one, "port": 53, "state": "listening"} for one in addresses]}
    assert doctor.outer_addresses(status) == ["192.168.56.1"]
    assert doctor.outer_addresses(None) == []


# Both forms that are known of `socketfilterfw --listapps`.
APPS = """ALF: total number of apps = 3

1 :  /Applications/My Python.app/Contents/tool
 \t ( Block incoming connections )

2 :  /opt/homebrew/Cellar/python@3.13/3.13.1/Frameworks/Python.framework/Versions/3.13/Resources/Python.app
 \t ( {} incoming connections )

3 : /usr/local/bin/other
             (Block incoming connections)
"""
UNBLOCK = "sudo /usr/libexec/ApplicationFirewall/socketfilterfw --unblockapp "


@pytest.mark.parametrize(
    ("state", "apps", "command"),
    [
        ("Firewall is disabled. (State = 0)", APPS.format("Block"), ""),
        ("Firewall is enabled. (State = 1)", "", ""),
        ("Firewall is enabled. (State = 1)", APPS.format("Allow"), ""),
        ("Firewall is enabled. (State = 1)", APPS.format("Block"),
         f"{UNBLOCK}/opt/homebrew/Cellar/python@3.13/3.13.1/Frameworks/Python.framework/Versions/3.13/Resources/Python.app"),
        ("Firewall is enabled. (State = 1)", "1 : /my tools/python3.12 \n     (Block incoming connections)",
         f"{UNBLOCK}'/my tools/python3.12'"),
        ("Firewall is blocking all non-essential incoming connections. (State = 2)", "",
         "open x-apple.systempreferences:"),
    ],
)  # fmt: skip
def test_the_firewall_of_macos(state: str, apps: str, command: str) -> None:
    found = doctor.macos_firewall(state, apps)
    assert (found[1] if found else "") == command


@contextmanager
def udp_server(change: Callable[[dns.message.Message], object]) -> Iterator[int]:
    """A server on loopback, by its port, that answers one query with what `change` makes of an empty response."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def serve() -> None:
            packet, peer = server.recvfrom(4096)
            response = dns.message.make_response(dns.message.from_wire(packet))
            change(response)
            server.sendto(response.to_wire(), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def add_address(response: dns.message.Message) -> None:
    response.answer = [dns.rrset.from_text(response.question[0].name, 60, "IN", "A", "203.0.113.1")]


@pytest.mark.parametrize(("change", "found"), [(add_address, True), (lambda response: response.set_rcode(3), False)])
def test_an_upstream_that_answers_local(change: Callable[[dns.message.Message], object], found: bool) -> None:
    with udp_server(change) as port:
        assert doctor.answers_local(f"127.0.0.1:{port}") is found


def test_names_that_this_host_resolves() -> None:
    assert doctor.resolve("127.0.0.1")  # "localhost" takes a hosts file
    with pytest.raises((OSError, UnicodeError)):
        doctor.resolve("x" * 64)  # nothing is asked for such a label


def test_problems_are_last_and_each_finding_is_there_once() -> None:
    findings = [Finding("a", "problem", "x"), Finding("b", "ok", "y"), Finding("c", "warning", "z")]
    value = doctor.respond([*findings, *findings])
    assert [one["subject"] for one in value["findings"]] == ["b", "c", "a"]
    assert value["verdict"] == "1 problem, 1 warning"
    assert doctor.respond(findings[1:2])["verdict"] == "All well"


STATUS = {"pid": 1, "zones": ["local", "vm.internal"], "upstreams": [{"address": "192.0.2.1:53"}], "listeners": []}
LOCAL, INTERNAL = "this computer's resolver (local)", "this computer's resolver (vm.internal)"
ASKS = "does not ask vmdns for names in "


@pytest.mark.parametrize(
    ("results", "system", "level", "text", "command"),
    [
        ({LOCAL: [1], INTERNAL: [1]}, "linux", "ok", "asks vmdns for names in local and vm.internal", ""),
        ({INTERNAL: [1]}, "linux", "warning", f"{ASKS}local", "vmdns hosts --keep"),
        ({"the system's DNS settings": ([], [])}, "linux", "warning", f"{ASKS}local and vm.internal",
         "vmdns host --apply"),
        ({"the system's DNS settings": OSError(), LOCAL: OSError()}, "win32", "warning", f"{ASKS}vm.internal",
         "vmdns hosts --keep"),
        ({"the hosts file": ["192.168.56.101 web"]}, "linux", "ok", "has the names of VMs in its hosts file", ""),
        ({LOCAL: [1], INTERNAL: [1], "the firewall": ("ufw", ALLOW)}, "linux", "problem",
         "ufw does not let queries of guests in", ALLOW),
        ({LOCAL: [1], INTERNAL: [1], "the upstream 192.0.2.1:53": True}, "linux", "warning",
         "the upstream 192.0.2.1:53 answers names in local itself; vmdns never asks it for them, but others might", ""),
        ({LOCAL: [1], INTERNAL: [1], "the browsers": ["Firefox"]}, "linux", "warning",
         "Firefox does not use the system's resolver, so it does not find names of VMs", ""),
    ],
)  # fmt: skip
def test_findings_about_this_computer(
    results: dict[str, object], system: str, level: str, text: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "run_parallel", lambda *_: results)
    monkeypatch.setattr(sys, "platform", system)
    found = list(doctor.check_host(STATUS, print))[-1]
    assert found[1:] == (level, text, command)


def test_a_check_that_takes_long_or_fails_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolver and upstreams that never answer: the rest is found out, and each second has its line."""
    release = threading.Event()
    monkeypatch.setattr(doctor, "resolve", lambda name: release.wait(60))
    monkeypatch.setattr(doctor, "answers_local", lambda server: release.wait(60))
    monkeypatch.setattr(doctor, "firewall", lambda *_: ("ufw", ALLOW))
    monkeypatch.setattr(doctor, "hosts_path", lambda: tmp_path)  # cannot be read
    monkeypatch.setattr(doctor, "CHECKS_SECONDS", 0.5)
    monkeypatch.setattr(doctor, "REPORT_SECONDS", 0.01)
    lines: list[str] = []
    found = list(doctor.check_host(STATUS, lines.append))
    release.set()
    assert [one.level for one in found if one.subject == "this computer"][:2] == ["warning", "problem"]
    assert not [one for one in found if one.subject == "upstream"]
    assert all(line.startswith("still waiting for ") for line in lines)
    assert f"{LOCAL}, {INTERNAL}, the upstream 192.0.2.1:53" in lines[-1]


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        (".mozilla/firefox/x.default/prefs.js", 'user_pref("network.trr.mode", 3);', ["Firefox with DNS over HTTPS"]),
        (".mozilla/firefox/x.default/prefs.js", 'user_pref("network.trr.mode", 5);', []),
        (".config/google-chrome/Local State", '{"dns_over_https":{"mode":"secure"}}', ["Chrome with DNS over HTTPS"]),
        (".config/google-chrome/Local State", '{"dns_over_https":{"mode":"automatic","templates":""}}', []),
        (
            "AppData/Local/Microsoft/Edge/User Data/Local State",
            '{"dns_over_https":{"templates":"https://x/","mode":"secure"}}',
            ["Edge with DNS over HTTPS"],
        ),
        ("Library/Application Support/Firefox/Profiles/x/prefs.js", "", []),
    ],
)
def test_browsers_that_ask_others(tmp_path: Path, file: str, text: str, found: list[str]) -> None:
    place = tmp_path / file
    place.parent.mkdir(parents=True)
    place.write_text(text)
    assert list(doctor.encrypted(tmp_path, {})) == found
