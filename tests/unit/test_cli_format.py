"""How responses become lines: nothing from outside steers the terminal, everything fits it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns import cli_format as show
from vmdns.cli_format import Style

PLAIN = Style()
NOW = 1_700_000_000.0

WEB: dict[str, Any] = {
    "name": "web.local", "also": ["web.lab.local"], "vm": "Web", "uuid": "0f7e", "state": "Running", "note": "",
    "addresses": [
        {"address": "10.0.2.4", "network": {"kind": "natnetwork", "name": "NatNetwork"}, "mac": "080027000001",
         "source": "lease", "why": "DHCP lease of NatNetwork, 540 s left", "since": NOW - 61},
        {"address": "192.168.56.101", "network": {"kind": "hostonly", "name": "vboxnet0"}, "mac": "080027000002",
         "source": "guest", "why": "Guest Additions", "since": NOW - 7_300},
    ],
}  # fmt: skip
DB: dict[str, Any] = {
    "name": "db.local", "also": [], "vm": "db", "uuid": "1f7e", "state": "Running", "addresses": [],
    "note": "running, but no address is known yet",
}  # fmt: skip
NAMES: dict[str, Any] = {
    "zones": ["local", "vm.internal"],
    "serial": 7,
    "names": [DB, WEB],
    "problems": ["VM db2 wanted the name db"],
}
STATUS: dict[str, Any] = {
    "verdict": "2 problems: run vmdns doctor",
    "version": "0.1.0",
    "pid": 4711,
    "started": NOW - 7_300,
    "zones": ["local", "vm.internal"],
    "serial": 7,
    "listeners": [
        {"address": "127.0.0.1", "port": 5300, "state": "listening", "detail": "port 53 is held by dnsmasq"},
        {"address": "::1", "port": 53, "state": "failed", "detail": "no right"},
    ],
    "virtualbox": {"version": "7.2.4", "reader": "api", "home": "/home/me/VirtualBox", "state": "ok", "detail": ""},
    "sources": [{"name": "leases", "state": "stale", "detail": "gone", "since": NOW - 5, "facts": 3}],
    "upstreams": [
        {"address": "192.0.2.53:53", "asked": 5, "answered": 4, "failed": 1, "round_trip_ms": 12.5, "error": "late"},
        {"address": "192.0.2.54:53", "asked": 0, "answered": 0, "failed": 0, "round_trip_ms": None, "error": ""},
    ],
    "counts": {"queries": 12, "tcp_open": 1},
    "datagrams": "in batches and one by one",
    "problems": ["VM db2 wanted the name db"],
}  # fmt: skip
ANSWER: dict[str, Any] = {
    "question": "web.local. A",
    "rcode": "NOERROR",
    "found": True,
    "summary": "",
    "note": "'WEB' is asked for as web.local",
    "answer": ["web.local. 5 IN A 10.0.2.4"],
    "authority": ["local. 5 IN SOA ns.local. hostmaster.local. 42 3600 1200 604800 3600", "local. 5 IN NS ns.local."],
    "why": ["DHCP lease of NatNetwork"],
    "extended_error": "stale",
}
CHANGE: dict[str, Any] = {**WEB, "change": "appeared", "was": [], "why": "Guest Additions", "at": NOW}


def lines(parts: list[show.Part], style: Style = PLAIN) -> list[str]:
    return show.render(parts, style)


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show.time, "time", lambda: NOW)


def test_names() -> None:
    assert lines(show.names(NAMES)) == [
        "NAME       ADDRESS         NETWORK                 AGE    WHY",
        "db.local   -                                              running, but no address is known yet",
        "web.local  10.0.2.4        NAT Network NatNetwork  1 min  DHCP lease of NatNetwork, 540 s left",
        "           192.168.56.101  host-only vboxnet0      2 h    Guest Additions",
        "",
        "The same names end in vm.internal as well as in local.",
        "",
        "! VM db2 wanted the name db",
    ]
    rule = {"text": "host:2222 -> 22 ssh", "rule": "ssh"}
    assert lines(show.names({**NAMES, "names": [{**DB, "forwards": [rule], "note": ""}]}))[:2] == [
        "NAME      ADDRESS              NETWORK  AGE  WHY",
        "db.local  host:2222 -> 22 ssh                port-forward rule ssh",
    ]
    assert lines(show.names({**NAMES, "names": [], "problems": []})) == ["No VM is running that has a name."]


def test_doctor() -> None:
    findings = [
        {"subject": "vmdns", "level": "ok", "text": "vmdns 0.1.0 runs", "command": ""},
        {"subject": "VM 'web'", "level": "warning", "text": "it is on NAT alone", "command": "VBoxManage x"},
        {"subject": "upstream", "level": "problem", "text": "192.0.2.53 is\x1b silent", "command": ""},
    ]
    assert lines(show.doctor({"well": False, "verdict": "1 problem, 1 warning", "findings": findings})) == [
        "ok vmdns: vmdns 0.1.0 runs",
        "?  VM 'web': it is on NAT alone",
        "      VBoxManage x",
        "!  upstream: 192.0.2.53 is\\x1b silent",
        "",
        "1 problem, 1 warning.",
    ]


def test_status() -> None:
    assert lines(show.status(STATUS)) == [
        "2 problems: run vmdns doctor",
        "vmdns 0.1.0, process 4711, up 2 h, zones local and vm.internal, serial 7",
        "",
        "LISTENER   PORT  STATE      DETAIL",
        "127.0.0.1  5300  listening  port 53 is held by dnsmasq",
        "::1        53    failed     no right",
        "",
        "VIRTUALBOX  READER  SETTINGS             STATE  DETAIL",
        "7.2.4       api     /home/me/VirtualBox  ok",
        "",
        "SOURCE  STATE  FACTS  SINCE  DETAIL",
        "leases  stale  3      5 s    gone",
        "",
        "UPSTREAM       ASKED  ANSWERED  FAILED  ROUND TRIP  ERROR",
        "192.0.2.53:53  5      4         1       12.5 ms     late",
        "192.0.2.54:53  0      0         0       -",
        "",
        "12 queries, 1 tcp open, datagrams taken in batches and one by one",
        "",
        "! VM db2 wanted the name db",
    ]


def test_answer() -> None:
    assert lines(show.answer(ANSWER, "10.0.2.9")) == [
        "NAME       TYPE  ANSWER    TTL",
        "web.local  A     10.0.2.4  5 s",
        "stale",
        "",
        "- 'WEB' is asked for as web.local",
        "- asked as 10.0.2.9",
        "- DHCP lease of NatNetwork",
    ]
    nothing = {**ANSWER, "answer": [], "summary": "No VM is called wbe.", "note": "", "why": []}
    assert lines(show.answer(nothing, None)) == ["No VM is called wbe."]
    why = ["web.local is VM 'web'", "web has no adapter"]
    empty = {**nothing, "summary": "web.local has no A record (NODATA): web has no adapter", "why": why}
    assert lines(show.answer(empty, None)) == [empty["summary"], "", "- web.local is VM 'web'"]
    assert lines(show.dig(ANSWER, "10.0.2.9")) == [
        ";; web.local. A: NOERROR, asked as 10.0.2.9",
        "web.local. 5 IN A 10.0.2.4",
        ";; authority: local. SOA serial 42, absence is remembered for 5 s",
        ";; authority: local. 5 IN NS ns.local.",
        ";; extended error: stale",
        ";; why: DHCP lease of NatNetwork",
    ]


IN_LAB = {"addresses": WEB["addresses"][:1], "why": ""}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ({**IN_LAB, "why": "Guest Additions"}, "+ web.local  10.0.2.4 (NAT Network NatNetwork)  [Guest Additions]"),
        ({"addresses": [], "why": ""}, "+ web.local  no address known yet"),
        ({**IN_LAB, "change": "changed", "was": ["10.0.2.3"]},
         "~ web.local  10.0.2.4 (NAT Network NatNetwork)  (was 10.0.2.3)"),
        ({**IN_LAB, "change": "changed", "was": ["10.0.2.4"], "was_name": "w.local"},
         "~ web.local  10.0.2.4 (NAT Network NatNetwork)  (was w.local)"),
        ({"change": "gone", "addresses": [], "was": ["10.0.2.4"], "why": "powered off"},
         "- web.local  (was 10.0.2.4)  [powered off]"),
    ],
)  # fmt: skip
def test_change(line: dict[str, Any], shown: str) -> None:
    time, rest = lines([show.change({**CHANGE, **line})])[0].split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time)
    assert rest == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86399, "23 h"),
        (86400, "1 d"), (8640000, "100 d"),
    ],
)  # fmt: skip
def test_age(seconds: float, shown: str) -> None:
    assert show.age(NOW - seconds) == shown


def test_wide_letters_are_two_columns() -> None:
    assert lines([show.Table(("A", "B"), [("리눅스", "x"), ("e\u0301", "y")])], PLAIN) == [
        "A       B",
        "리눅스  x",
        "e\u0301       y",
    ]
    assert lines([show.Table(("A", "B"), [("리눅스리눅스", "x")])], Style(12)) == ["A          B", "리눅스...  x"]


def columns(text: str) -> int:
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.category(char) in ("Mn", "Me") else 1
        for char in re.sub(r"\x1b\[\d+m", "", text)
    )


CELLS = st.text(max_size=60) | st.sampled_from(["ok", "failed", "10.0.2.4"])


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(20, 200), st.booleans())
def test_tables_fit_the_terminal(rows: list[tuple[str, str, str]], width: int, colour: bool) -> None:
    shown = lines([show.Table(("NAME", "ADDRESS", "WHY"), rows)], Style(width, colour))
    assert len(shown) == len(rows) + 1
    assert all(columns(line) <= width for line in shown)


@pytest.mark.parametrize(
    ("terminal", "colours", "environ", "colour"),
    [
        (True, True, {}, True), (True, True, {"NO_COLOR": ""}, True), (True, True, {"NO_COLOR": "1"}, False),
        (True, True, {"TERM": "dumb"}, False), (True, False, {}, False), (False, False, {}, False),
    ],
)  # fmt: skip
def test_colour(
    terminal: bool, colours: bool, environ: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "99")
    assert show.style_of(terminal, colours, environ) == Style(99 if terminal else 0, colour)
    states = lines([show.Table(("STATE", "X"), [("ok", "y")])], Style(80, colour))
    assert states[1] == ("\x1b[32mok\x1b[0m     y" if colour else "ok     y")
