"""The hosts file, as people, installers and old editors leave it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.message import address_record
from vmdns.dns.name import to_wire
from vmdns.host.folders import hosts_path
from vmdns.sources import hosts_file as hostsfile
from vmdns.sources.hosts_file import parse_hosts, read_digest, read_hosts
from vmdns.state import static_records as hosts
from vmdns.state.static_records import HostsIndex

ZONES = frozenset({to_wire("local"), to_wire("vm.internal")})
BLOCKED = 230_000


def brief(data: bytes) -> list[tuple[str, str, bool]]:
    return [(one.name, one.address, one.canonical) for one in parse_hosts(data)]


NAS = ("nas", "192.168.1.9", True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"192.168.1.9 nas\n", [NAS]),
        (b"192.168.1.9 nas", [NAS]),
        (b"  192.168.1.9\t nas  \n", [NAS]),
        (b"192.168.1.9 NAS.\n", [NAS]),
        (b"192.168.1.9 nas a\tb.home\n", [NAS, ("a", "192.168.1.9", False), ("b.home", "192.168.1.9", False)]),
        (b"192.168.1.9 nas # the big one\n# 192.168.1.8 old\n#\n", [NAS]),
        (b"192.168.1.9 nas#x\n", [NAS]),
        (
            b"192.168.1.9 nas\n192.168.1.9 other nas\n",
            [NAS, ("other", "192.168.1.9", True), ("nas", "192.168.1.9", False)],
        ),
        (b"192.168.1.9 nas\n192.168.1.10 nas\n", [NAS, ("nas", "192.168.1.10", True)]),
        # Windows: CRLF and a byte order mark.
        (b"\xef\xbb\xbf192.168.1.9 nas\r\n\r\n# x\r\n10.0.0.1 a\r\n", [NAS, ("a", "10.0.0.1", True)]),
        # IPv6, with the scope that macOS writes.
        (b"::1 localhost ip6-localhost\n", [("localhost", "::1", True), ("ip6-localhost", "::1", False)]),
        (b"FD00::0009 nas\n", [("nas", "fd00::9", True)]),
        (b"fe80::1%lo0 localhost\n", [("localhost", "fe80::1", True)]),
        # Latin-1 spoils the name it stands in, not its neighbours.
        (b"192.168.1.9 nas # gr\xfc\xdfe\n10.0.0.1 b\xfcro a\n", [NAS, ("a", "10.0.0.1", False)]),
        ("10.0.0.1 büro a\n".encode(), [("a", "10.0.0.1", False)]),
        # Only a line's end ends a comment.
        *[
            (f"# x{odd}10.0.0.1 bank.example\n192.168.1.9 nas\n".encode(), [NAS])
            for odd in ("\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029")
        ],
        # Names of Windows and of service records.
        (b"10.0.0.1 my_pc _dmarc.x\n", [("my_pc", "10.0.0.1", True), ("_dmarc.x", "10.0.0.1", False)]),
    ],
)  # fmt: skip
def test_lines(data: bytes, expected: list[tuple[str, str, bool]]) -> None:
    assert brief(data) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"192.168.1.9", b"nas 192.168.1.9", b"999.1.1.1 x", b"192.168.1 x", b"010.0.0.1 x", b"0x7f.1 x", b"1 x",
        b"1.2.3.4/24 x", b"[::1] x", b"1.2.3.4 -x", b"1.2.3.4 x-", b"1.2.3.4 x..y", b"1.2.3.4 .", b"1.2.3.4 *.x",
        b"1.2.3.4 a/b", b"1.2.3.4 " + b"a." * 127 + b"a", b"1.2.3.4 " + b"-" * 100_000, b"\0" * 1000, b"1.2.3.4\0x",
        "127.0.0.1 nas".encode("utf-16-le"), b"\xff\xfe\xfd", b"x" * 1_000_000,
    ],
    ids=lambda line: repr(line[:16]),
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_left_out(line: bytes) -> None:
    assert brief(line + b"\n192.168.1.9 nas\n") == [NAS]


def digested(folder: Path, data: bytes, before: HostsIndex | None = None) -> HostsIndex:
    file = folder / "hosts"
    file.write_bytes(data)
    return read_digest(file, ZONES, 5, before)


def addresses(found: HostsIndex, name: str) -> list[bytes]:
    return [rdata for rrset in found.outside.get(to_wire(name), {}).values() for rdata in rrset.rdatas]


def block_list(count: int) -> bytes:
    lines = "".join(f"0.0.0.0 ad{number:06d}.tracker.example\n" for number in range(count))
    return f"127.0.0.1 localhost\n{lines}192.168.56.20\tshop.test\n".encode()


def test_a_block_list_of_230_000_names_is_taken_whole_and_kept_once(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        found = digested(tmp_path, block_list(BLOCKED))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.count, len(found.outside), found.trouble) == (BLOCKED + 2, BLOCKED + 1, "")
    assert addresses(found, "ad229999.tracker.example") == [bytes(4)]
    assert addresses(found, "shop.test") == [address_record("192.168.56.20")[1]]
    assert [one.name for one in found.inside] == ["localhost", "shop.test"]
    assert kept < 50_000_000
    assert digested(tmp_path, block_list(BLOCKED), found) is found
    assert digested(tmp_path, block_list(3), found).count == 5


def test_beyond_the_bound_the_users_own_lines_are_kept_and_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "MAX_BLOCKED", 10)
    monkeypatch.setattr(hosts, "MAX_LINES", 10)
    own = "".join(f"192.168.56.{number} own{number}.test\n" for number in range(1, 10)).encode()
    found = digested(tmp_path, block_list(100) + own)
    assert [bool(addresses(found, f"own{number}.test")) for number in range(1, 10)] == [True] * 9
    assert addresses(found, "shop.test")
    assert addresses(found, "ad000009.tracker.example")
    assert not addresses(found, "ad000011.tracker.example")
    assert found.trouble == "the hosts file has more names than vmdns keeps: 90 of them are left out"
    bare = b"".join(b"0.0.0.0 a%d\n" % number for number in range(50))
    found = digested(tmp_path, bare + own)
    assert addresses(found, "own9.test")
    assert [one.name for one in found.inside if one.name.startswith("own")] == [f"own{n}.test" for n in range(1, 10)]
    assert "40 of them are left out" in found.trouble


def test_many_names_on_one_line_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_BLOCKED", 10)
    monkeypatch.setattr(hosts, "MAX_LINES", 10)
    line = "192.168.56.1 " + " ".join(f"own{number}.test" for number in range(50)) + "\n"
    found = digested(tmp_path, line.encode())
    assert found.count == 20
    assert "30 of them are left out" in found.trouble


def test_a_file_beyond_the_bound_is_cut_after_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"10.0.0.1 a.test\n10.0.0.2 b.test\n10.0.0.3 c.test\n"
    for most in range(len(lines) + 2):
        monkeypatch.setattr(hostsfile, "MAX_BYTES", most)
        (tmp_path / "hosts").write_bytes(lines)
        data, whole = read_hosts(tmp_path / "hosts")
        assert whole is (most >= len(lines))
        assert data == lines[: most // 16 * 16]
        assert ("longer than" in digested(tmp_path, lines).trouble) is not whole


def test_names_with_several_addresses_whatever_their_order(tmp_path: Path) -> None:
    lines = [b"10.0.0.2 a.test\n", b"10.0.0.1 a.test x.test\n", b"fd00::1 a.test\n", b"10.0.0.2 x.test a.test\n"]
    one, other = digested(tmp_path, b"".join(lines)), digested(tmp_path, b"".join(reversed(lines)))
    assert (one.outside, one.inside, one.count) == (other.outside, other.inside, other.count)
    assert addresses(one, "a.test") == [address_record(text)[1] for text in ("10.0.0.1", "10.0.0.2", "fd00::1")]
    assert one.count == 5


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="1.:%# \t\r\nax-_fé\u2028", max_size=80).map(str.encode)))
def test_any_bytes_give_names_that_dns_can_carry(data: bytes) -> None:
    for name, address, _ in brief(data):
        assert name == name.lower()
        assert name.isascii()
        assert not set(name) & set(" \t\r\n#/")
        assert "%" not in address


def test_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    assert read_hosts(file) == (b"", True)
    assert read_digest(file, ZONES, 5).count == 0
    file.write_bytes(b"\xef\xbb\xbf192.168.1.9 nas\n")
    assert [(one.name, one.address, one.canonical) for one in read_digest(file, ZONES, 5).inside] == [NAS]
    with pytest.raises(OSError):
        read_hosts(tmp_path)


def test_where_it_is() -> None:
    assert hosts_path("linux", {}) == hosts_path("darwin", {"SystemRoot": "x"}) == Path("/etc/hosts")
    parts = PureWindowsPath(hosts_path("win32", {"SystemRoot": r"D:\Win"})).parts
    assert parts[-4:] == ("System32", "drivers", "etc", "hosts")
    assert str(hosts_path("win32", {})).startswith(r"C:\Windows")
