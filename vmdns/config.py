"""vmdns.toml: what the user may set, read into a frozen `Config`.

Every error is a `ConfigError` whose text names the file, the line and the key, says what is wrong, and what would be
right. The options of the command line are laid over the file by `Config.with_options`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vmdns import config_types as types
from vmdns.dns import name
from vmdns.dns.limits import LIMITS, Limits
from vmdns.dns.upstreams import Upstream
from vmdns.dns.zonefile import parse_records
from vmdns.files import read_regular
from vmdns.host.system_settings import ListenAddress
from vmdns.state.snapshot import Policy

# Room for some 50,000 own records; more is a mistaken file.
MAX_BYTES = 4 * 1024 * 1024


class ConfigError(Exception):
    """The configuration cannot be used; the text says where, what is wrong and what would be right."""


class OptionError(ConfigError):
    """The value of an option of the command line is wrong; the text names the option."""


# Options of `vmdns run` by the keys that they replace, with values as in the file; `demo`: they are of `vmdns demo`.
Options = Mapping[str, Any]


def _key(default: Any, read: Callable[[Any], Any], about: str, option: str = "") -> Any:
    """A key of vmdns.toml: its default, how its value is read (raises ValueError), what it is for, and the option of
    `vmdns run` that replaces it."""
    return field(default=default, metadata={"read": read, "about": about, "option": option})


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration: a field for each key of vmdns.toml."""

    listen: tuple[ListenAddress, ...] = _key(
        (),
        types.listen,
        'addresses to answer at, like "127.0.0.1:53"; empty: port 53 of this host wherever guests ask',
        "--listen",
    )
    bind: str = _key(
        "auto",
        types.binding,
        "how sockets are bound: address (each to its address), wildcard (one to all addresses, of which only the "
        "wanted ones are answered), or auto (wildcard where macOS allows nothing else)",
    )
    zones: tuple[str, ...] = _key(
        ("local", "vm.internal"), types.zones, "the zones that VM names live in, the main one first"
    )
    upstreams: tuple[Upstream, ...] = _key(
        (), types.upstreams, "servers that everything else is forwarded to; empty: what this host uses", "--upstream"
    )
    lan: str = _key(
        "guests",
        types.one_of("off", "guests", "names", "all"),
        "who is answered on bridged networks: off, guests, names (everybody: VM names) or all",
    )
    wildcards: bool = _key(True, types.truth, "whether names below a VM, like x.web.local, are answered as the VM's")
    wire: bool = _key(
        False, types.truth, "whether VirtualBox's networks are kept wired, as by `vmdns wire --apply`", "--wire"
    )
    mdns: bool = _key(
        True, types.truth, "whether VM names are answered by multicast DNS on host-only and bridged networks"
    )
    mdns_relay: bool = _key(
        True, types.truth, "whether others on this host's links are asked for X.local that is no VM's"
    )
    hosts: bool = _key(True, types.truth, "whether names of this host's hosts file are answered")
    private_domains: tuple[str, ...] = _key(
        (), types.domains, 'domains outside of the zones whose names may have private addresses, like "fritz.box"'
    )
    reserved_allowed: tuple[str, ...] = _key(
        (), types.labels, 'names that a VM may take although they are reserved, like "wpad"'
    )
    reader: str = _key(
        "auto", types.one_of("auto", "api", "vboxmanage"), "how VirtualBox is read: auto, api or vboxmanage", "--reader"
    )
    vbox_home: str | None = _key(
        None, types.home, "VirtualBox's folder of settings (VBOX_USER_HOME); empty: VirtualBox's default", "--vbox-home"
    )
    records: str = _key("", types.text, "own records in zone-file text, names relative to each zone")
    forward: tuple[tuple[str, tuple[Upstream, ...]], ...] = _key(
        (), types.forward, "domains that go to servers of their own"
    )
    limits: Limits = _key(Limits(), types.limits, "bounds, each with its unit and range")  # noqa: RUF009 - frozen
    # Where each value that is not the default comes from: "FILE, line 3" or the option. Not part of the value.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def forward_names(self) -> dict[bytes, tuple[Upstream, ...]]:
        """The upstreams of single domains, by wire name in lower case."""
        return {name.to_wire(domain): upstreams for domain, upstreams in self.forward}

    def policy(
        self, resolvers: tuple[str, ...] = (), forwarded: frozenset[bytes] = frozenset(), *, looked: bool = True
    ) -> Policy:
        """The policy of these values, and of what only a running server knows.

        The user's records are parsed when the file is read (`parse_records` keeps the last result).
        """
        return Policy(
            zones=self.zones,
            ttl=self.limits.ttl,
            records=parse_records(self.records, self.zones, self.limits.ttl),
            reserved_allowed=frozenset(self.reserved_allowed),
            resolvers=resolvers,
            wildcards=self.wildcards,
            lan=self.lan,
            forwarded=forwarded | frozenset(self.forward_names),
            looked=looked,
        )

    def with_options(self, options: Options) -> Config:
        """This with the options of the command line laid over it. Raises `OptionError`."""
        changed: dict[str, Any] = {}
        origins = dict(self.origins)
        for key in filter(options.__contains__, KEYS):
            option = KEYS[key]["option"]
            try:
                changed[key] = KEYS[key]["read"](options[key])
            except ValueError as error:
                raise OptionError(f"{option}: {error}") from None
            origins[key] = "vmdns demo" if options.get("demo") and key != "upstreams" else option
        return replace(self, **changed, origins=origins)


# What `_key` says of each key.
KEYS: dict[str, Mapping[str, Any]] = {one.name: one.metadata for one in fields(Config) if one.metadata}


def values_in_force(config: Config) -> dict[str, dict[str, Any]]:
    """Each value by its key (`zones`, `limits.ttl`) as JSON, and under `from` where it comes from."""
    found: dict[str, Any] = {key: _json(getattr(config, key)) for key in KEYS if key not in ("forward", "limits")}
    found["forward"] = {domain: _json(upstreams) for domain, upstreams in config.forward}
    found.update({f"limits.{key}": getattr(config.limits, key) for key in LIMITS})
    return {key: {"value": value, "from": config.origins.get(key, "default")} for key, value in found.items()}


def _json(value: object) -> object:
    return [str(item) for item in value] if isinstance(value, tuple) else "" if value is None else value


def load(path: Path, *, optional: bool = False) -> Config:
    """The configuration in that file, or the default if it is optional and missing. Raises `ConfigError`."""
    try:
        raw = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        if optional:
            return Config()
        raise ConfigError(f"{path}: there is no such file; create it, or leave --config out") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_BYTES // 1024 // 1024} MiB, so hardly a vmdns.toml")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"{path}, line 1: the file is UTF-16; save it as UTF-8")
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def parse(text: str, file: str) -> Config:
    """The configuration in that text; `file` names it in errors. Raises `ConfigError`."""
    text = text.replace("\r\n", "\n")
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _syntax_error(file, text, str(error)) from None
    lines = key_lines(text)

    def wrong(key: str, what: str, line: int = 0) -> ConfigError:
        # A key inside an inline table is not found by itself; the line of what holds it is.
        line = line or lines.get(key) or lines.get(key.split(".")[0], 0)
        line = line or next((one for dotted, one in lines.items() if dotted.startswith(f"{key}.")), 0)
        where = f"{file}, line {line}" if line else file
        return ConfigError(f"{where}: {_shorten(key)}: {_shorten(what)}")

    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in KEYS:
            raise wrong(key, _unknown(key, KEYS))
        try:
            values[key] = KEYS[key]["read"](value)
        except types.Inside as error:
            raise wrong(f"{key}.{error.key}", str(error) or _unknown(error.key, LIMITS)) from None
        except ValueError as error:
            raise wrong(key, str(error)) from None
    given = [key for key in tree if key != "limits"] + [f"limits.{key}" for key in tree.get("limits", ())]
    line_of = {key: lines.get(key) or lines.get(key.split(".")[0], 1) for key in given}
    config = Config(**values, origins={key: f"{file}, line {line}" for key, line in line_of.items()})
    for domain, _ in config.forward:
        if domain in config.zones:
            what = "this is a zone of vmdns, whose names are never forwarded; take it out here or out of zones"
            raise wrong(f"forward.{domain}", what)
    try:
        parse_records(config.records, config.zones, config.limits.ttl)
    except ValueError as error:
        line = _line_of_record(text, lines, str(error))
        raise wrong("records", re.sub(r"^line \d+: ", "", str(error)) if line else str(error), line) from None
    return config


def _syntax_error(file: str, text: str, message: str) -> ConfigError:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", message, re.DOTALL)
    if found is None:
        return ConfigError(f"{file}: not TOML: {message}")
    last = text.rstrip().count("\n") + 1
    where = f"line {found[2]}, column {found[3]}" if found[2] else f"line {last}, at the end"
    advice = "see https://toml.io"
    if "Unescaped" in found[1] or "hex value" in found[1]:
        advice = r"write a backslash twice, or put the text into single quotes: 'C:\VirtualBox'"
    elif "Invalid value" in found[1]:
        advice = 'put texts into quotes and lists into brackets: upstreams = ["192.0.2.1"]'
    elif "Cannot overwrite" in found[1] or "Cannot declare" in found[1]:
        advice = "say each key and each [table] once"
    return ConfigError(f"{file}, {where}: not TOML: {found[1]}; {advice}")


def _shorten(text: str) -> str:
    """So that a mistaken file does not fill the log and the status."""
    return text if len(text) <= 500 else text[:500] + "..."


def _unknown(key: str, known: Mapping[str, object]) -> str:
    if near := difflib.get_close_matches(key, known, 1):
        return f"unknown key; did you mean {near[0]}?"
    if known is KEYS and (near := difflib.get_close_matches(key, LIMITS, 1)):
        return f"unknown key; did you mean {near[0]} in the table [limits]?"
    return f"unknown key; there are {', '.join(known)}"


# -- lines of the file, which tomllib forgets ------------------------------------------------------------------------

# Texts over several lines, also without an end; texts of one line; comments. Possessive quantifiers would be right here
# but Python 3.11.2 (Debian 12) gets them wrong.
_TEXT = r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_OPAQUE = re.compile(
    rf'("""(?:[^"\\]|\\.|"(?!""))*(?:"{{3,5}}|\Z)|\'\'\'(?:[^\']|\'(?!\'\'))*(?:\'{{3,5}}|\Z))|{_TEXT}|#[^\n]*',
    re.DOTALL,
)
_PART = rf"(?:[A-Za-z0-9_-]+|{_TEXT})"
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_LINE = re.compile(rf"[ \t]*(?:\[\[?[ \t]*(?P<table>{_DOTTED})[ \t]*\]\]?[ \t]*(?:#.*)?$|(?P<key>{_DOTTED})[ \t]*=)")


def key_lines(text: str) -> dict[str, int]:
    """The line, from 1, of each key and table header of valid TOML, by its dotted name without quotes."""
    lines: dict[str, int] = {}
    table: list[str] = []
    single = _OPAQUE.sub(lambda found: "\n" * found[0].count("\n") if found[1] else found[0], text)
    for number, line in enumerate(single.split("\n"), 1):
        if found := _LINE.match(line):
            parts = [part.strip("\"'") for part in re.findall(_PART, found["table"] or found["key"])]
            if found["table"]:
                table, parts = parts, []
            lines.setdefault(".".join(table + parts), number)
    return lines


def _line_of_record(text: str, lines: Mapping[str, int], message: str) -> int:
    """The line of the file that a "line N" inside a multi-line `records` means, or 0 where that is not known."""
    found = re.match(r"line (\d+)\b", message)
    start = lines.get("records", 0)
    opening = re.search(r"(\"\"\"|''')(.*)", text.split("\n")[start - 1]) if start else None
    if found is None or opening is None:
        return 0
    # A newline right behind the opening quotes is no part of the text (TOML 1.0, String).
    return start + int(found[1]) - (1 if opening[2] else 0)
