"""Guest properties to reports: one table, each row an idea."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vmdns.sources.vboxmanage import parse_properties
from vmdns.sources.virtualbox_values import MAX_REPORTS, parse_guest_reports
from vmdns.state.facts import GuestReport

NET = "/VirtualBox/GuestInfo/Net/"


def entry(n: object, mac: str = "080027AABBCC", ip: str = "10.0.2.4", status: str = "Up", at: float = 100.0):
    return {
        f"{NET}{n}/MAC": (mac, at),
        f"{NET}{n}/V4/IP": (ip, at),
        f"{NET}{n}/V4/Netmask": ("255.255.255.0", at),
        f"{NET}{n}/V4/Broadcast": ("10.0.2.255", at),
        f"{NET}{n}/Status": (status, at),
    }


def reports(properties, started: float = 1.0, state: str = "Running"):
    return parse_guest_reports({"/VirtualBox/HostInfo/VBoxVer": ("7.2.22", started), **properties}, state)


def count(value: str, at: float = 100.0):
    return {f"{NET}Count": (value, at)}


ONE = GuestReport("080027aabbcc", "10.0.2.4", 100.0)
TWO = GuestReport("080027aabbdd", "10.0.2.5", 100.0)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param(count("1"), (), id="count alone"),
        pytest.param({**count("1"), **entry(0)}, (ONE,), id="one interface"),
        pytest.param(entry(0), (ONE,), id="no Count: all"),
        pytest.param(
            {**count("1"), **entry(0), **entry(1, "080027AABBDD", "10.0.2.5")}, (ONE,), id="n = Count is stale"
        ),
        pytest.param({**count("0"), **entry(0)}, (), id="Count 0"),
        pytest.param({**count("99"), **entry(3)}, (ONE,), id="Count beyond"),
        pytest.param({**count("-1"), **entry(0)}, (ONE,), id="Count negative"),
        pytest.param({**count("1\n"), **entry(7)}, (ONE,), id="Count with newline"),
        pytest.param({**count("9" * 5000), **entry(0)}, (ONE,), id="Count longer than int() takes"),
        pytest.param({**count("١"), **entry(7)}, (ONE,), id="Count in other digits"),
        pytest.param({**count("2"), **entry(0, "080027AABBDD", "10.0.2.5"), **entry(1)}, (ONE, TWO), id="sorted"),
        pytest.param({**entry(0), **entry(1, "080027AABBDD", "10.0.2.5")}, (ONE, TWO), id="two"),
        pytest.param(
            {**entry(0), **entry(1, ip="10.0.2.9")}, (ONE, GuestReport(ONE.mac, "10.0.2.9", 100.0)), id="alias"
        ),
        pytest.param(
            {**entry(0), **entry(1, at=200.0)}, (GuestReport(ONE.mac, ONE.address, 200.0),), id="said twice: newest"
        ),
        pytest.param(entry(0, status="Down"), (), id="down"),
        pytest.param(entry(0, status=""), (ONE,), id="no status word"),
        pytest.param(
            {**count("1", 150.0), **entry(0)}, (GuestReport(ONE.mac, ONE.address, 150.0),), id="since: Count newer"
        ),
        pytest.param({**count("1", 50.0), **entry(0)}, (ONE,), id="since: entry newer"),
        pytest.param(
            {**entry(0), f"{NET}0/V4/Netmask": ("255.0.0.0", 170.0)},
            (GuestReport(ONE.mac, ONE.address, 170.0),),
            id="since: newest of the entry",
        ),
        pytest.param({f"{NET}0/V4/IP": ("10.0.2.4", 1.0)}, (), id="no MAC"),
        pytest.param({f"{NET}0/MAC": ("080027AABBCC", 1.0)}, (), id="no address"),
        pytest.param(entry("00"), (), id="index 00"),
        pytest.param(entry("-1"), (), id="index -1"),
        pytest.param(entry("x"), (), id="index x"),
        pytest.param(entry("9" * 5000), (), id="index longer than int() takes"),
        pytest.param({f"/x{key}": value for key, value in entry(0).items()}, (), id="another root"),
        pytest.param({f"{key}\n": value for key, value in entry(0).items()}, (), id="names with newline"),
    ],
)
def test_reports(properties, expected) -> None:
    assert reports(properties) == expected


@pytest.mark.parametrize(
    "address",
    [
        "", "999.1.1.1", "256.0.0.1", "1.2.3", "1.2.3.4.5", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "01.2.3.4",
        "1.2.3.4/24", "0x1.2.3.4", "16909060", "::1", "1.2.3.٤", "1.2.3.-4",
        "\0", "9" * 65536, "1." * 32768, "10.0.2.4\n10.0.2.5",
        "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "169.254.1.1", "224.0.0.251", "239.1.1.1", "240.0.0.1",
        "255.255.255.255",
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_addresses_that_no_host_has(address) -> None:
    assert reports(entry(0, ip=address)) == ()


@pytest.mark.parametrize(
    "address", ["10.0.2.15", "172.31.0.1", "192.168.56.255", "100.64.0.1", "198.18.5.1", "8.8.8.8"]
)
def test_addresses_that_a_host_may_have(address) -> None:
    assert [report.address for report in reports(entry(0, ip=address))] == [address]


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "08:00:27:AA:BB:CC",
        "080027AABBC",
        "080027AABBCCD",
        "080027AABBCG",
        "080027AABBCC\n",
        "080027AABBC٤",
        "A" * 65536,
    ],
)
def test_bad_macs(mac) -> None:
    assert reports(entry(0, mac=mac)) == ()


def test_a_bad_entry_does_not_spoil_the_next() -> None:
    assert reports({**count("3"), **entry(0, ip="999.1.1.1"), **entry(1, mac="?"), **entry(2)}) == (ONE,)


def test_bounded() -> None:
    flood: dict[str, tuple[str, float]] = {}
    for n in reversed(range(1000)):
        flood |= entry(n, ip=f"10.0.{n // 250}.{n % 250 + 1}")
    found = reports(flood)
    assert len(found) == MAX_REPORTS
    assert {report.address for report in found} == {f"10.0.0.{n + 1}" for n in range(MAX_REPORTS)}
    assert found == tuple(sorted(found, key=lambda report: (report.mac, report.address)))


# -- reports of an earlier run ---------------------------------------------------------------------------------

# Net/* of a run in May 2026 with Guest Additions of 7.0, which VirtualBox kept in the VM's settings file.
OLD = {**count("1", 1778102912.120548), **entry(0, "0800274F0077", "192.0.2.77", at=1778102912.120548)}
OLDBOX = GuestReport("0800274f0077", "192.0.2.77", 1778102912.120548)


def test_a_report_of_an_earlier_run_is_not_used() -> None:
    assert reports(OLD, started=1796045341.7595) == ()
    assert parse_guest_reports(OLD, "Running") == ()  # the VM process has written nothing yet


@pytest.mark.parametrize("state", ["Running", "Paused", "LiveSnapshotting", "OnlineSnapshotting", "Saving", "Stuck"])
def test_pausing_and_snapshots_end_no_run(state: str) -> None:
    assert reports(OLD, started=1778102900.0, state=state) == (OLDBOX,)


@pytest.mark.parametrize("state", ["Starting", "Restoring", "TeleportingIn"])
def test_before_the_guest_runs_all_properties_are_of_an_earlier_run(state: str) -> None:
    assert reports(OLD, started=1778102900.0, state=state) == ()


def test_a_sign_of_life_in_this_run_makes_the_report_one_of_this_run() -> None:
    # VBoxService, restored with the VM, rewrites only Net/Count where nothing else changed.
    assert reports({**OLD, **count("1", 1796045360.0)}, started=1796045341.7595) == (
        replace(OLDBOX, since=1796045360.0),
    )


def test_two_runs_as_vboxmanage_7_2_printed_them() -> None:
    """Recorded: a report of before the start, then Paused, Running and a live snapshot, then restored from Saved."""
    text = (
        "Name: /VirtualBox/GuestInfo/Net/0/MAC, value: 080027112233, timestamp: {at}, flags: \n"
        "Name: /VirtualBox/GuestInfo/Net/0/V4/IP, value: 192.0.2.77, timestamp: {at}, flags: \n"
        "Name: /VirtualBox/GuestInfo/Net/Count, value: 1, timestamp: {at}, flags: \n"
        "Name: /VirtualBox/HostInfo/VBoxVer, value: 7.2.22, timestamp: {started}, flags: TRANSIENT, RDONLYGUEST\n"
    )
    before, first, written, restored = (
        1796045341172778000,
        1796045341759500000,
        1796045343000000000,
        1796045349326477000,
    )
    for at, started, used in ((before, first, 0), (written, first, 1), (written, restored, 0)):
        found = parse_guest_reports(parse_properties(text.format(at=at, started=started)), "Running")
        assert len(found) == used
