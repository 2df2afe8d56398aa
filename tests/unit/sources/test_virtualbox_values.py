"""Values as VirtualBox stores them: extra data, port-forward rules, guest properties. Each row is an idea."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmdns.sources.virtualbox_values import (
    MAX_NAMES,
    MAX_REPORTS,
    parse_extra,
    parse_guest_reports,
    parse_nat_rule,
    rule_sort_key,
)
from vmdns.state.facts import GuestReport, PortForward

# -- extra data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        (" , ,,", ()),
        (" web , shop.lab ,", ("web", "shop.lab")),
        ("리눅스,two words", ("리눅스", "two words")),
        (",".join(f"n{n}" for n in range(1000)), tuple(f"n{n}" for n in range(MAX_NAMES))),
        ("," * 100_000 + "last", ("last",)),
    ],
)
def test_names(value: str, names: tuple[str, ...]) -> None:
    assert parse_extra({"vmdns/names": value}).names == names


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("", ()),
        (" 192.168.56.10,10.0.2.9 ,, fd00::1", ("192.168.56.10", "10.0.2.9", "fd00::1")),
        ("192.168.56.10 10.0.2.9;x", ("192.168.56.10", "10.0.2.9", "x")),
    ],
)
def test_set_addresses(value: str, addresses: tuple[str, ...]) -> None:
    assert parse_extra({"vmdns/address": value}).set_addresses == addresses


def test_ignore() -> None:
    assert all(parse_extra({"vmdns/ignore": word}).ignored for word in ("1", "true", "yes", "on", " ON ", "True"))
    assert not any(parse_extra({"vmdns/ignore": word}).ignored for word in ("", "0", "false", "off", "2", "1,1"))


# -- port-forward rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ssh,1,127.0.0.1,2222,,22", PortForward("ssh", "tcp", "127.0.0.1", 2222, "", 22)),
        ("dns,0,,5353,10.0.2.15,53", PortForward("dns", "udp", "", 5353, "10.0.2.15", 53)),
        ("dns,udp,,5353,10.0.2.15,53", PortForward("dns", "udp", "", 5353, "10.0.2.15", 53)),
        (",tcp,,80,,80", PortForward("", "tcp", "", 80, "", 80)),
        ('a "b",c\nd,tcp,,80,,80', PortForward('a "b",c\nd', "tcp", "", 80, "", 80)),
    ],
)
def test_nat_rule(text: str, rule: PortForward) -> None:
    assert parse_nat_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["", "tcp,,80,,80", "x,2,,80,,80", "x,TCP,,80,,80", "x,tcp,,,,80", "x,tcp,,80,,eighty"]
)
def test_no_nat_rule(text: str) -> None:
    with pytest.raises(ValueError):
        parse_nat_rule(text)


def test_order_does_not_depend_on_names_first() -> None:
    rules = [parse_nat_rule(text) for text in ("b,udp,,1,,1", "a,tcp,,9,,1", "z,tcp,127.0.0.1,1,,1", "y,tcp,,1,,1")]
    assert [rule.name for rule in sorted(rules, key=rule_sort_key)] == ["y", "z", "a", "b"]


# -- guest properties ------------------------------------------------------------------------------------------

NET = "/VirtualBox/GuestInfo/Net/"
Properties = dict[str, tuple[str, float]]


def entry(
    n: object, mac: str = "080027AABBCC", ip: str = "10.0.2.4", status: str = "Up", at: float = 100.0
) -> Properties:
    return {
        f"{NET}{n}/MAC": (mac, at),
        f"{NET}{n}/V4/IP": (ip, at),
        f"{NET}{n}/V4/Netmask": ("255.255.255.0", at),
        f"{NET}{n}/Status": (status, at),
    }


def reports(properties: Properties, started: float = 1.0, state: str = "Running") -> tuple[GuestReport, ...]:
    return parse_guest_reports({"/VirtualBox/HostInfo/VBoxVer": ("7.2.22", started), **properties}, state)


def count(value: str, at: float = 100.0) -> Properties:
    return {f"{NET}Count": (value, at)}


ONE = GuestReport("080027aabbcc", "10.0.2.4", 100.0)
TWO = GuestReport("080027aabbdd", "10.0.2.5", 100.0)
OTHER = entry(1, "080027AABBDD", "10.0.2.5")


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param(count("1"), (), id="count alone"),
        pytest.param({**count("1"), **entry(0)}, (ONE,), id="one interface"),
        pytest.param(entry(0), (ONE,), id="no Count: all"),
        pytest.param({**count("1"), **entry(0), **OTHER}, (ONE,), id="n = Count is stale"),
        pytest.param({**count("0"), **entry(0)}, (), id="Count 0"),
        pytest.param({**count("99"), **entry(3)}, (ONE,), id="Count beyond"),
        pytest.param({**count("-1"), **entry(0)}, (ONE,), id="Count negative"),
        pytest.param({**count("1\n"), **entry(7)}, (ONE,), id="Count with newline"),
        pytest.param({**count("9" * 5000), **entry(0)}, (ONE,), id="Count longer than int() takes"),
        pytest.param({**count("١"), **entry(7)}, (ONE,), id="Count in other digits"),
        pytest.param({**count("2"), **OTHER, **entry(0)}, (ONE, TWO), id="sorted"),
        pytest.param({**entry(0), **entry(1, ip="10.0.2.9")}, (ONE, replace(ONE, address="10.0.2.9")), id="alias"),
        pytest.param({**entry(0), **entry(1, at=200.0)}, (replace(ONE, since=200.0),), id="twice: newest"),
        pytest.param(entry(0, status="Down"), (), id="down"),
        pytest.param(entry(0, status=""), (ONE,), id="no status word"),
        pytest.param({**count("1", 150.0), **entry(0)}, (replace(ONE, since=150.0),), id="since: Count newer"),
        pytest.param({**count("1", 50.0), **entry(0)}, (ONE,), id="since: entry newer"),
        pytest.param(
            {**entry(0), f"{NET}0/V4/Netmask": ("255.0.0.0", 170.0)}, (replace(ONE, since=170.0),), id="since: newest"
        ),
        pytest.param({f"{NET}0/V4/IP": ("10.0.2.4", 1.0)}, (), id="no MAC"),
        pytest.param({f"{NET}0/MAC": ("080027AABBCC", 1.0)}, (), id="no address"),
        pytest.param({**entry("00"), **entry("-1"), **entry("x"), **entry("9" * 5000)}, (), id="odd indexes"),
        pytest.param({f"/x{key}": value for key, value in entry(0).items()}, (), id="another root"),
        pytest.param({f"{key}\n": value for key, value in entry(0).items()}, (), id="names with newline"),
        pytest.param(
            {**count("3"), **entry(0, ip="999.1.1.1"), **entry(1, mac="?"), **entry(2)}, (ONE,), id="others are bad"
        ),
    ],
)
def test_reports(properties: Properties, expected: tuple[GuestReport, ...]) -> None:
    assert reports(properties) == expected


@pytest.mark.parametrize("address", ["", "1.2.3", "1.2.3.4\n", "01.2.3.4", "1.2.3.4/24", "::1", "127.9.9.9"])
def test_addresses_that_no_host_has(address: str) -> None:
    """tests/unit/state/test_addresses.py has the others."""
    assert reports(entry(0, ip=address)) == ()


@pytest.mark.parametrize(
    "mac",
    ["", "08:00:27:AA:BB:CC", "080027AABBC", "080027AABBCCD", "080027AABBCG", "080027AABBCC\n", "080027AABBC٤"],
)
def test_bad_macs(mac: str) -> None:
    assert reports(entry(0, mac=mac)) == ()


def test_reports_are_bounded() -> None:
    flood: Properties = {}
    for n in reversed(range(1000)):
        flood |= entry(n, ip=f"10.0.{n // 250}.{n % 250 + 1}")
    found = reports(flood)
    assert len(found) == MAX_REPORTS
    assert {report.address for report in found} == {f"10.0.0.{n + 1}" for n in range(MAX_REPORTS)}
    assert found == tuple(sorted(found, key=lambda report: (report.mac, report.address)))


# Net/* of a run in May 2026 with Guest Additions of 7.0, which VirtualBox kept in the VM's settings file.
OLD = {**count("1", 1778102912.120548), **entry(0, "0800274F0077", "192.0.2.77", at=1778102912.120548)}
OLDBOX = GuestReport("0800274f0077", "192.0.2.77", 1778102912.120548)


def test_a_report_of_an_earlier_run_is_not_used() -> None:
    assert reports(OLD, started=1796045341.7595) == ()
    assert parse_guest_reports(OLD, "Running") == ()  # the VM process has written nothing yet
    # VBoxService, restored with the VM, rewrites only Net/Count where nothing else changed.
    alive = {**OLD, **count("1", 1796045360.0)}
    assert reports(alive, started=1796045341.7595) == (replace(OLDBOX, since=1796045360.0),)


@pytest.mark.parametrize(
    ("state", "used"),
    [("Running", True), ("Paused", True), ("LiveSnapshotting", True), ("OnlineSnapshotting", True), ("Saving", True),
     ("Stuck", True), ("Starting", False), ("Restoring", False), ("TeleportingIn", False)],
)  # fmt: skip
def test_pausing_and_snapshots_end_no_run_and_starting_is_none_yet(state: str, used: bool) -> None:
    assert reports(OLD, started=1778102900.0, state=state) == ((OLDBOX,) if used else ())
