"""Lease files: the real one, and all that may stand in its place (threat T18)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.sources import lease_file
from vmdns.sources.lease_file import (
    MAX_BYTES,
    MAX_LEASES,
    SUFFIX,
    InvalidLeaseFile,
    LeaseFolder,
    parse_bootpd_leases,
    parse_leases,
    read_leases,
)
from vmdns.state.facts import Lease

# Written by VBoxNetDHCP 7.2.22 for two BusyBox guests.
REAL = b"""<?xml version="1.0"?>
<Leases version="1.0">
  <Lease mac="08:00:27:aa:bb:02" id="01080027aabb02" network="0.0.0.0" state="acked">
    <Address value="10.0.2.4"/>
    <Time issued="1795375308" expiration="600"/>
  </Lease>
  <Lease mac="08:00:27:aa:bb:01" id="01080027aabb01" network="0.0.0.0" state="acked">
    <Address value="10.0.2.3"/>
    <Time issued="1795375278" expiration="600"/>
  </Lease>
</Leases>
"""
LEASES = (
    Lease("lab", "080027aabb02", "10.0.2.4", 1795375308.0, 1795375908.0),
    Lease("lab", "080027aabb01", "10.0.2.3", 1795375278.0, 1795375878.0),
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="FIFOs, /dev/zero and links")


def entry(
    mac: str = "08:00:27:aa:bb:02",
    address: str = "10.0.2.4",
    issued: str = "100",
    seconds: str = "600",
    state: str = "acked",
) -> str:
    return (
        f'<Lease mac="{mac}" network="0.0.0.0" state="{state}">'
        f'<Address value="{address}"/><Time issued="{issued}" expiration="{seconds}"/></Lease>'
    )


def file(*entries: str) -> bytes:
    return f'<?xml version="1.0"?><Leases version="1.0">{"".join(entries)}</Leases>'.encode()


GOOD = Lease("lab", "080027aabb02", "10.0.2.4", 100.0, 700.0)


def test_the_real_file() -> None:
    assert parse_leases(REAL, "lab") == LEASES
    assert parse_leases(b"\xef\xbb\xbf" + REAL.replace(b"\n", b"\r\n"), "lab") == LEASES
    assert parse_leases(b'<?xml version="1.0"?>\n<Leases version="1.0"/>\n', "lab") == ()


def test_utf16_is_read_where_a_byte_order_mark_shows_it() -> None:
    assert parse_leases(REAL.decode().encode("utf-16"), "lab") == LEASES


def test_every_entry_of_a_mac_is_there_in_the_order_of_the_file() -> None:
    entries = entry(address="10.0.2.9", issued="300"), entry(), entry(address="10.0.2.8", issued="200")
    assert [one.address for one in parse_leases(file(*entries), "lab")] == ["10.0.2.9", "10.0.2.4", "10.0.2.8"]


@pytest.mark.parametrize(
    "odd",
    [
        *[entry(state=state) for state in ("free", "released", "expired", "offered", "", "ACKED", "acked ")],
        # Files of old versions have no state: VirtualBox itself takes them for expired.
        entry().replace(' state="acked"', ""),
        *[
            entry(mac=mac)
            for mac in ("", "08-00-27-aa-bb-02", "08:00:27:aa:bb", "08:00:27:aa:bb:02:03", "08:00:27:aa:bb:0g")
        ],
        entry(mac="٠8:00:27:aa:bb:02"),
        *[
            entry(address=address)
            for address in ("", "999.1.1.1", "10.0.2", "::1", "0.0.0.0", "127.0.0.1", "224.0.0.1")
        ],
        entry(address="10.0.2.4&#10;"),
        *[entry(issued=text) for text in ("", "x", "-1", "1.5", "9" * 30, "9" * 5000, "1099511627776")],
        *[entry(seconds=text) for text in ("", "x", "-1", "4294967296")],
        entry().replace("<Address", "<Adress"),
        entry().replace("<Time", "<time"),
        "<Lease/>",
        '<Client mac="08:00:27:aa:bb:02"><Address value="10.0.2.7"/></Client>',
        "text",
    ],
)
def test_an_odd_entry_is_passed_over_and_the_others_count(odd: str) -> None:
    assert parse_leases(file(odd, entry()), "lab") == (GOOD,)
    assert parse_leases(file(entry(), odd), "lab") == (GOOD,)


def test_what_is_not_known_is_passed_over() -> None:
    more = entry().replace("<Address", '<Extra x="1"><Deep/></Extra><Address').replace("<Lease ", '<Lease new="1" ')
    assert parse_leases(file(more), "lab") == (GOOD,)
    assert parse_leases(file(entry(mac="08:00:27:AA:BB:02")), "lab") == (GOOD,)
    assert parse_leases(file(entry(issued="0", seconds="4294967295")), "lab")[0].until == 4294967295.0


def test_a_file_cut_anywhere_is_damaged() -> None:
    for end in range(len(REAL) - 1):
        with pytest.raises(InvalidLeaseFile):
            parse_leases(REAL[:end], "lab")


BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<Leases version="1.0"><Lease mac="&c;"/></Leases>"""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        b"not xml",
        b"<html><body/></html>",
        b"<leases/>",
        REAL + REAL,
        REAL + b"x",
        REAL[40:],
        REAL[:200] + b"\0" + REAL[200:],
        REAL[:200] + b"\xff\xfe" + REAL[200:],
        REAL.replace(b"</Lease>", b"", 1),
        REAL.decode().encode("utf-32"),
        BOMB,
        BOMB.replace(b"[<!ENTITY", b'SYSTEM "file:///etc/passwd" [<!ENTITY'),
        b'<!DOCTYPE Leases SYSTEM "http://127.0.0.1:1/x"><Leases/>',
        b"<Leases>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</Leases>",
        b"<Leases>" + b" " * MAX_BYTES + b"</Leases>",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(InvalidLeaseFile):
        parse_leases(data, "lab")


@pytest.mark.parametrize(
    "encoding", ["shift_jis", "utf-7", "idna", "hex", "zlib", "utf-16", "no-such-one", "undefined"]
)
def test_a_declared_encoding_changes_nothing(encoding: str) -> None:
    assert parse_leases(REAL.replace(b'"1.0"?', f'"1.0" encoding="{encoding}"?'.encode()), "lab") == LEASES


def test_no_more_leases_than_the_bound() -> None:
    short = entry(issued="1", seconds="1")
    assert len(short) * (MAX_LEASES + 10) < MAX_BYTES
    assert len(parse_leases(file(short * (MAX_LEASES + 10)), "lab")) == MAX_LEASES


@given(st.data())
def test_any_bytes_in_a_real_file_give_leases_or_damage(data: st.DataObject) -> None:
    changed = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = parse_leases(bytes(changed), "lab")
    except InvalidLeaseFile:
        found = ()
    assert len(found) <= 2
    assert all(len(one.mac) == 12 and one.until >= one.issued for one in found)


# -- files -------------------------------------------------------------------------------------------------------


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / f"lab{SUFFIX}"
    with path.open("wb") as huge:
        huge.truncate(1 << 40)  # sparse: takes no room, and would never be read to its end
    with pytest.raises(InvalidLeaseFile, match="larger than"):
        read_leases(path)


@posix
@pytest.mark.parametrize("kind", ["fifo", "zero", "null", "folder", "loop"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"lab{SUFFIX}"
    match kind:
        case "fifo":
            os.mkfifo(path)  # nobody writes into it: an open that waits would never return
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case device:
            path.symlink_to(f"/dev/{device}")
    with pytest.raises((InvalidLeaseFile, OSError)):
        read_leases(path)


# In the form of bootpd on macOS 15: the second entry has a DHCP unique identifier instead of a MAC.
BOOTPD = b"""{
\tname=web
\tip_address=192.168.56.4
\thw_address=1,8:0:27:aa:bb:3
\tidentifier=1,8:0:27:aa:bb:3
\tlease=0x6a200000
}
{
\tname=db
\tip_address=192.168.56.5
\thw_address=ff,5c:bb:eb:5e:0:2:0:0:ab:11:72:3e:92:23:14:1d:a7:ba
\tidentifier=ff,5c:bb:eb:5e:0:2:0:0:ab:11:72:3e:92:23:14:1d:a7:ba
\tlease=0x6a200100
}
{
\tip_address=192.168.64.9
\thw_address=1,8:0:27:aa:bb:3
\tidentifier=1,8:0:27:aa:bb:3
\tlease=0x65000000
}
"""


def test_leases_of_bootpd() -> None:
    assert parse_bootpd_leases(BOOTPD) == (
        Lease("", "080027aabb03", "192.168.56.4", 0.0, float(0x6A200000)),
        Lease("", "080027aabb03", "192.168.64.9", 0.0, float(0x65000000)),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"=192.168.56.4", b"=192.168.56.400"), (b"=192.168.56.4", b"=127.0.0.1"),
        (b"=1,8:0:27:aa:bb:3", b"=1,8:0:27:aa:bb"), (b"lease=0x6a200000", b"lease=soon"),
        (b"lease=0x6a200000", b"lease=0x" + b"f" * 99), (b"{\n\tname=web", b"name=web"), (b"lease=0x6a200000", b""),
    ],
)  # fmt: skip
def test_a_damaged_lease_of_bootpd_is_left_out(before: bytes, after: bytes) -> None:
    [one] = parse_bootpd_leases(BOOTPD.replace(before, after, 1))
    assert one.address == "192.168.64.9"


def test_bootpds_file_is_read_beside_those_of_virtualbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / f"lab{SUFFIX}").write_bytes(REAL)
    system = tmp_path / "dhcpd_leases"
    monkeypatch.setattr(lease_file, "BOOTPD_FILES", (str(system),))
    folder = LeaseFolder()
    assert len(folder.read(tmp_path / "home")[0]) == 2
    system.write_bytes(BOOTPD)
    facts, trouble, again = folder.read(tmp_path / "home")
    assert {fact.network for fact in facts.values()} == {"lab", ""}
    assert (len(facts), trouble, again) == (4, "", False)
