"""vmdns.toml: what is read, what is refused and how, and that what is shown is read back."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from vmdns import cli_format
from vmdns.config import KEYS, Config, ConfigError, load, parse, values_in_force
from vmdns.config_types import address_and_port
from vmdns.dns.limits import LIMITS, Limits
from vmdns.dns.upstreams import Upstream
from vmdns.host.system_settings import ListenAddress

HOME = Path(tempfile.gettempdir()).resolve() / "none"
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


def read(text: str) -> Config:
    return parse(text, "vmdns.toml")


def render(values: dict[str, dict[str, Any]]) -> str:
    return "\n".join(cli_format.config({"values": values})) + "\n"


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(text)
    return str(error.value)


def test_nothing_said_is_the_default() -> None:
    assert read("") == Config()
    assert read("").limits == Limits()
    assert Config().policy().own == (b"\x05local\x00", b"\x02vm\x08internal\x00")


AT = [("127.0.0.1", 5300), ("192.0.2.1", 53), ("::1", 5300), ("fe80::1%eth0", 53)]


def test_every_key() -> None:
    config = read(
        """
        listen = ["127.0.0.1:5300", "192.0.2.1", "[::1]:5300", "fe80::1%eth0"]
        zones = ["Lab.Example.", "리눅스.example"]
        upstreams = ["192.0.2.53", "[2001:db8::53]:5353", "192.0.2.53:53"]
        hosts = false
        reserved_allowed = ["WPAD"]
        reader = "vboxmanage"
        vbox_home = '"""
        + str(HOME)
        + """'
        records = "www A 192.0.2.80"

        [forward]
        "Corp.Example" = ["10.8.0.1"]
        vpn.example = ["10.9.0.1:5353", "10.9.0.2"]
        "10.in-addr.arpa" = ["10.8.0.1"]

        [limits]
        ttl = 60
        query_timeout = 3
        """
    )
    assert config == Config(
        listen=tuple(ListenAddress(*one) for one in AT),
        zones=("lab.example", "xn--pd1b38l32h.example"),
        upstreams=(Upstream("192.0.2.53", 53), Upstream("2001:db8::53", 5353)),
        hosts=False,
        reserved_allowed=("wpad",),
        reader="vboxmanage",
        vbox_home=str(HOME),
        records="www A 192.0.2.80",
        forward=(
            ("corp.example", (Upstream("10.8.0.1"),)),
            ("vpn.example", (Upstream("10.9.0.1", 5353), Upstream("10.9.0.2"))),
            ("10.in-addr.arpa", (Upstream("10.8.0.1"),)),
        ),
        limits=Limits(ttl=60, query_timeout=3.0),
    )
    assert config.forward_names[b"\x03vpn\x07example\x00"] == (Upstream("10.9.0.1", 5353), Upstream("10.9.0.2"))
    assert isinstance(config.limits.query_timeout, float)
    assert read(render(values_in_force(config))) == config


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        (" 192.0.2.1:1 ", ("192.0.2.1", 1)), ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("::1", ("::1", 53)), ("[2001:DB8:0::1]:8", ("2001:db8::1", 8)), ("[fe80::1%eth0]:53", ("fe80::1%eth0", 53)),
        ("::1:53", ("::1:53", 53)),  # all of it is one IPv6 address: a port needs brackets
    ],
)  # fmt: skip
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert address_and_port(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "localhost", "localhost:53", "300.0.0.1", "127.1", "1.2.3.4.5", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536",
        "1.2.3.4:-1", "1.2.3.4:5 3", "1.2.3.4:٥٣", "[::1]53", "[::1]:", "[::1", "[]:53", "1.2.3.4:53:53",
        "fe80::1%a]b", "fe80::1%a b", ":53", "1.2.3.4 5.6.7.8", "1.2.3.4:" + "5" * 5000,
    ],
)  # fmt: skip
def test_addresses_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like|a port is a number"):
        address_and_port(text)


# What stands in the file, and all that the error must hold: the line, the key, what is wrong, what would be right.
WRONG = [
    ("\n\nlistn = []", ["vmdns.toml, line 3: listn:", "unknown key", "did you mean listen?"]),
    ("ttl = 5", ["line 1: ttl:", "did you mean ttl in the table [limits]?"]),
    ("[limits]\n\nttls = 5", ["line 3: limits.ttls:", "did you mean ttl?"]),
    ("xyzzy = 5", ["line 1: xyzzy:", "there are listen, bind, zones"]),
    ('listen = "127.0.0.1"', ["line 1: listen:", 'write ["127.0.0.1"]']),
    ("listen = [53]", ["line 1: listen:", 'like ["127.0.0.1:53"]']),
    ('listen = ["web:53"]', ["line 1: listen:", "'web:53'", "192.0.2.1:53"]),
    ('listen = ["224.0.0.251:5353"]', ["line 1: listen:", "multicast", "an address of this host"]),
    ('upstreams = ["0.0.0.0"]', ["line 1: upstreams:", "0.0.0.0", "the server's own address"]),
    ('upstreams = ["192.0.2.1:0"]', ["upstreams:", "from 1 to 65535"]),
    ("upstreams = [" + '"192.0.2.1",' * 300 + "]", ["upstreams:", "300 items", "at most 256"]),
    ("zones = []", ["line 1: zones:", "at least one zone"]),
    ('zones = ["a b"]', ["line 1: zones:", "'a b' is not a domain name", "corp.example"]),
    ('zones = ["a..b"]', ["zones:", "a..b", "corp.example"]),
    ('zones = ["a"]\n' + 'hosts = "yes"', ["line 2: hosts:", "true or false", "'yes'"]),
    (f'zones = ["{".".join(["a" * 60] * 4)}"]', ["zones:", "no room", "191 bytes"]),
    ('zones = ["2.0.192.in-addr.arpa"]', ["zones:", "PTR records are made by themselves"]),
    ('zones = ["internal", "vm.internal"]', ["zones:", "'vm.internal' lies inside 'internal'"]),
    ('reserved_allowed = ["a b"]', ["reserved_allowed:", "'a b' is not one label", "write 'a-b'"]),
    ('reader = "com"', ["line 1: reader:", "'com'", '"auto", "api" or "vboxmanage"']),
    ('vbox_home = "vbox"', ["vbox_home:", "not a full path"]),
    (f"vbox_home = '{__file__}'", ["vbox_home:", "not a folder", "VirtualBox.xml"]),
    ('vbox_home = "/tmp/\\u0000"', ["vbox_home:"]),
    ("records = []", ["records:", "a text in quotes", "a list"]),
    ("forward = 1", ["line 1: forward:", "[forward]"]),
    ('[forward]\n"corp" = "10.0.0.1"', ["line 2: forward.corp:", 'write ["10.0.0.1"]']),
    ("[forward]\ncorp.example = []", ["line 2: forward.corp.example:", "at least one server"]),
    ('forward = { "a b" = ["10.0.0.1"] }', ["line 1: forward.a b:", "not a domain name"]),
    ('[forward]\nA = ["10.0.0.1"]\na = ["10.0.0.1"]', ["line 3: forward.a:", "named twice"]),
    ('[forward]\nlocal = ["10.0.0.1"]', ["line 2: forward.local:", "zone of vmdns", "never forwarded"]),
    ("limits = 5", ["line 1: limits:", "[limits]", "ttl = 5"]),
    ("[limits]\nttl = 2.5", ["line 2: limits.ttl:", "a whole number from 0 to 3600 s", "2.5"]),
    ("[limits]\nttl = 3601", ["line 2: limits.ttl:", "3601 is out of bounds", "from 0 to 3600 s"]),
    ("[limits]\nttl = true", ["limits.ttl:", "not true"]),
    ("[limits]\nquery_timeout = nan", ["limits.query_timeout:", "from 1 to 30 s"]),
    ("[limits]\ncache_entries = -1", ["limits.cache_entries:", "from 0 to 1000000 entries"]),
    ("reader = auto", ["vmdns.toml, line 1, column 10: not TOML", "quotes"]),
    ('#\nreader = "auto\n\n', ["vmdns.toml, line 2, column", "not TOML"]),
    ('vbox_home = "C:\\VirtualBox"', ["line 1, column", "not TOML", "backslash twice"]),
    ("hosts = true\nhosts = false", ["line 2, at the end: not TOML", "once"]),
    ("a = " + "[" * 100_000, ["vmdns.toml", "not TOML"]),
]


@pytest.mark.parametrize(("text", "parts"), WRONG, ids=[wrong[0][:40] for wrong in WRONG])
def test_refused(text: str, parts: list[str]) -> None:
    said = refused(text)
    for part in parts:
        assert part in said
    assert said.startswith("vmdns.toml")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('records = """\na A 192.0.2.1\ntwo\n"""', "line 3: records: "),
        ('records = """a A 192.0.2.1\ntwo\n"""', "line 2: records: "),
        ("hosts = true\nrecords = '''\na A 192.0.2.1\ntwo'''", "line 4: records: "),
        # Where the line of the file is not known: that of the text.
        ('records = "a A 192.0.2.1\\ntwo"', "line 1: records: line 2: "),
    ],
)
def test_own_records_are_checked(text: str, where: str) -> None:
    assert refused(text).startswith(f"vmdns.toml, {where}'two': something is missing; write it like: ")


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"# caf\xe9", ["line 1: not UTF-8", "save the file as UTF-8"]),
        (b"# a\nzones = ['caf\xe9']", ["line 2: not UTF-8"]),
        ("hosts = true".encode("utf-16"), ["UTF-16; save it as UTF-8"]),
        (b"#" * (4 * 1024 * 1024 + 1), ["longer than 4 MiB"]),
    ],
)
def test_files_refused(tmp_path: Path, raw: bytes, parts: list[str]) -> None:
    path = tmp_path / "vmdns.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    for part in parts:
        assert part in str(error.value)


def test_a_file_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "vmdns.toml"
    path.write_bytes(b"\xef\xbb\xbfhosts = false\r\nrecords = '''\r\na A 192.0.2.1\r\n'''\r\n")
    assert load(path) == Config(hosts=False, records="a A 192.0.2.1\n")


def test_no_file(tmp_path: Path) -> None:
    assert load(tmp_path / "vmdns.toml", optional=True) == Config()
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "vmdns.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: ."):
        load(tmp_path, optional=True)


RECORDS = ["", "a\n", "\n", "'''", "'", '"\\', "\t; x\n'", "a\n'''\nb", "\x7f\n\x00", "\ud55c"]


@pytest.mark.parametrize("records", RECORDS)
def test_what_is_rendered_is_read_back(records: str) -> None:
    config = Config(vbox_home=str(HOME / "a 'b' c"), records=records, limits=Limits(query_timeout=1.5))
    with mock.patch("vmdns.config.parse_records"):  # any text
        assert read(render(values_in_force(config))) == config


def test_rendered_comments_tell_default_unit_and_range() -> None:
    shown = render(values_in_force(read("[limits]\nttl = 7")))
    assert "# Default: 5 s, from 0 to 3600\n# Set by vmdns.toml, line 2\nttl = 7\n" in shown
    assert "# Default: 10000 entries, from 0 to 1000000\n" in shown
    for key, about in KEYS.items():
        assert about["about"][1:] in shown, key


def test_each_value_says_where_it_was_set() -> None:
    text = 'zones = ["lab"]\nlimits = {ttl = 9}\n[forward]\n"corp.example" = ["192.0.2.1"]'
    config = read(text).with_options({"reader": "api"})
    values = values_in_force(config)
    assert {key: one["from"] for key, one in values.items() if one["from"] != "default"} == {
        "zones": "vmdns.toml, line 1",
        "limits.ttl": "vmdns.toml, line 2",
        "forward": "vmdns.toml, line 3",
        "reader": "--reader",
    }
    assert read(render(values)) == config
    assert json.loads(json.dumps(values)) == values


def table_rows() -> dict[str, list[str]]:
    """The rows of the tables of the docs by their key in backquotes."""
    rows = {}
    for line in DOCS.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and not line.startswith("| `--"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_docs_name_every_key_with_its_default() -> None:
    rows = table_rows()
    assert set(rows) == set(KEYS) - {"limits"} | set(LIMITS)
    default = tomllib.loads(render(values_in_force(Config())))
    for key in set(KEYS) - {"limits", "forward"}:
        assert tomllib.loads(f"x = {rows[key][0].strip('`')}")["x"] == default[key], key
    for key, bounds in LIMITS.items():
        shown = [f"{bounds.default:.10g}", f"{bounds.least:.10g}", f"{bounds.most:.10g}", bounds.unit, bounds.about]
        assert rows[key] == shown, key


def test_examples_of_the_docs_are_valid() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    shown = {key for example in examples for key in tomllib.loads(example)}
    assert shown == set(KEYS)
    for example in examples:
        assert parse(example, "docs/configuration.md") != Config(), example
