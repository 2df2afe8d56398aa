"""vmdns.toml: what the user may set, read into a frozen `Config`, and written out again in full.

Every error is a `ConfigError` whose text names the file, the line and the key, says what is wrong, and what
would be right. The command line's options are laid over the file by `Config.with_options`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vmdns import config_types as values
from vmdns.config_text import key_lines, quoted, quoted_lines, too_nested
from vmdns.config_types import Listen
from vmdns.dns import name
from vmdns.dns.escape import escape_text
from vmdns.dns.limits import LIMITS, Limits
from vmdns.dns.upstreams import Upstream
from vmdns.regular_file import read_regular

# Room for some 50,000 own records; more is a mistaken file.
MAX_BYTES = 4 * 1024 * 1024

# Checks zone-file text against the zones, with the TTL where none is given; raises ValueError with "line N: ...".
CheckRecords = Callable[[str, Sequence[str], int], None]


class ConfigError(Exception):
    """The configuration cannot be used; the text says where, what is wrong and what would be right."""


class ConfigMissing(ConfigError):
    """There is no such file."""


class OptionError(ConfigError):
    """The value of an option of the command line is wrong; the text names the option."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; the empty values leave the file's in force."""

    listen: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    vbox_home: str = ""
    reader: str = ""
    wire: bool = False
    demo: bool = False  # `vmdns demo`: VirtualBox is simulated


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration. Empty `listen` and `upstreams` mean: found automatically."""

    listen: tuple[Listen, ...] = ()
    zones: tuple[str, ...] = ("local", "vm.internal")
    upstreams: tuple[Upstream, ...] = ()
    lan: str = "guests"
    wildcards: bool = True
    wire: bool = False
    mdns: bool = True
    mdns_relay: bool = True
    hosts: bool = True
    private_domains: tuple[str, ...] = ()
    reserved_allowed: tuple[str, ...] = ()
    reader: str = "auto"
    vbox_home: Path | None = None
    records: str = ""
    forward: tuple[tuple[str, tuple[Upstream, ...]], ...] = ()
    limits: Limits = field(default_factory=Limits)
    # Where each value that is not the default comes from: "FILE, line 3" or the option. Not part of the value.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def zone_names(self) -> tuple[bytes, ...]:
        """The zones as wire names in lower case."""
        return tuple(name.to_wire(zone) for zone in self.zones)

    @property
    def private_names(self) -> frozenset[bytes]:
        """The domains whose names may have private addresses, as wire names in lower case."""
        return frozenset(name.to_wire(domain) for domain in self.private_domains)

    @property
    def forward_names(self) -> dict[bytes, tuple[Upstream, ...]]:
        """The upstreams of single domains, by wire name in lower case."""
        return {name.to_wire(domain): upstreams for domain, upstreams in self.forward}

    def with_options(self, options: Options) -> Config:
        """This with the options of the command line laid over it. Raises `OptionError`."""
        changed: dict[str, Any] = {}
        origins = dict(self.origins)
        for key, option in _OPTIONS.items():
            given = getattr(options, key)
            if given:
                try:
                    changed[key] = KEYS[key].read(list(given) if isinstance(given, tuple) else given)
                except ValueError as error:
                    raise OptionError(f"{option}: {error}") from None
                origins[key] = option
        if options.demo:
            # Nothing of this computer is changed, nothing is announced to its networks, and no name is hidden by a
            # line of its hosts file.
            changed.update(dict.fromkeys(_OFF_IN_DEMO, False), vbox_home=None)
            origins.update(dict.fromkeys((*_OFF_IN_DEMO, "listen"), "vmdns demo"))
        return replace(self, **changed, origins=origins)


_OPTIONS = {
    "listen": "--listen",
    "upstreams": "--upstream",
    "vbox_home": "--vbox-home",
    "reader": "--reader",
    "wire": "--wire",
}


_OFF_IN_DEMO = ("wire", "mdns", "mdns_relay", "hosts")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of vmdns.toml: how its value is read (raises ValueError), and what it is for."""

    read: Callable[[Any], Any]
    about: str


KEYS: dict[str, Key] = {
    "listen": Key(
        values.listen, 'addresses to answer at, like "127.0.0.1:53"; empty: port 53 of this host wherever guests ask'
    ),
    "zones": Key(values.zones, "the zones that VM names live in, the main one first"),
    "upstreams": Key(values.upstreams, "servers that everything else is forwarded to; empty: what this host uses"),
    "lan": Key(values.lan, "who is answered on bridged networks: off, guests, names (everybody: VM names) or all"),
    "wildcards": Key(values.truth, "whether names below a VM, like x.web.local, are answered as the VM's"),
    "wire": Key(values.truth, "whether VirtualBox's networks are kept wired, as by `vmdns wire --apply`"),
    "mdns": Key(values.truth, "whether VM names are answered by multicast DNS on host-only and bridged networks"),
    "mdns_relay": Key(values.truth, "whether others on this host's links are asked for X.local that is no VM's"),
    "hosts": Key(values.truth, "whether names of this host's hosts file are answered"),
    "private_domains": Key(
        values.domains, 'domains outside of the zones whose names may have private addresses, like "fritz.box"'
    ),
    "reserved_allowed": Key(values.labels, 'names that a VM may take although they are reserved, like "wpad"'),
    "reader": Key(values.reader, "how VirtualBox is read: auto, api or vboxmanage"),
    "vbox_home": Key(values.home, "VirtualBox's folder of settings (VBOX_USER_HOME); empty: VirtualBox's default"),
    "records": Key(values.text, "own records in zone-file text, names relative to each zone"),
    "forward": Key(values.forward, "domains that go to servers of their own"),
    "limits": Key(values.limits, "bounds, each with its unit and range"),
}


def load(path: Path, check_records: CheckRecords) -> Config:
    """The configuration in that file. Raises `ConfigMissing`, or `ConfigError` for anything else wrong with it."""
    try:
        raw = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise ConfigMissing(f"{path}: there is no such file; create it, or leave --config out") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_BYTES // 1024 // 1024} MiB, so hardly a vmdns.toml")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"{path}, line 1: the file is UTF-16; save it as UTF-8")
    try:
        return parse(raw.decode("utf-8-sig"), str(path), check_records)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def parse(text: str, file: str, check_records: CheckRecords) -> Config:
    """The configuration in that text; `file` names it in errors. Raises `ConfigError`."""
    text = text.replace("\r\n", "\n")
    if line := too_nested(text):
        what = "too many dots in keys; write a domain name in quotes"
        raise ConfigError(f'{file}, line {line}: {what}: "corp.example" = ["192.0.2.1"]')
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
        return ConfigError(f"{where}: {_short(key)}: {_short(what)}")

    read: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in KEYS:
            raise wrong(key, _unknown(key, KEYS))
        try:
            read[key] = KEYS[key].read(value)
        except values.Inside as error:
            raise wrong(f"{key}.{error.key}", str(error) or _unknown(error.key, LIMITS)) from None
        except ValueError as error:
            raise wrong(key, str(error)) from None
    given = [key for key in tree if key != "limits"] + [f"limits.{key}" for key in tree.get("limits", ())]
    line_of = {key: lines.get(key) or lines.get(key.split(".")[0], 1) for key in given}
    config = Config(**read, origins={key: f"{file}, line {line}" for key, line in line_of.items()})
    for domain, _ in config.forward:
        if domain in config.zones:
            what = "this is a zone of vmdns, whose names are never forwarded; take it out here or out of zones"
            raise wrong(f"forward.{domain}", what)
    try:
        check_records(config.records, config.zones, config.limits.ttl)
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


def _short(text: str) -> str:
    """So that a mistaken file does not fill the log and the status."""
    return text if len(text) <= 500 else text[:500] + "..."


def _unknown(key: str, known: Mapping[str, object]) -> str:
    if near := difflib.get_close_matches(key, known, 1):
        return f"unknown key; did you mean {near[0]}?"
    if known is KEYS and (near := difflib.get_close_matches(key, LIMITS, 1)):
        return f"unknown key; did you mean {near[0]} in the table [limits]?"
    return f"unknown key; there are {', '.join(known)}"


def _line_of_record(text: str, lines: Mapping[str, int], message: str) -> int:
    """The line of the file that a "line N" inside a multi-line `records` means, or 0 where that is not known."""
    found = re.match(r"line (\d+)\b", message)
    start = lines.get("records", 0)
    if found is None or not start:
        return 0
    opening = re.search(r"(\"\"\"|''')(.*)", text.split("\n")[start - 1])
    if opening is None:
        return 0
    # A newline right behind the opening quotes is no part of the text (TOML 1.0, String).
    return start + int(found[1]) - (1 if opening[2] else 0)


def values_in_force(config: Config) -> dict[str, dict[str, Any]]:
    """Each value by its key (`zones`, `limits.ttl`) as JSON, and under `from` where it comes from."""
    found: dict[str, Any] = {key: _json(getattr(config, key)) for key in KEYS if key not in ("forward", "limits")}
    found["forward"] = {domain: _json(upstreams) for domain, upstreams in config.forward}
    found.update({f"limits.{one.name}": getattr(config.limits, one.name) for one in fields(Limits)})
    return {key: {"value": value, "from": config.origins.get(key, "default")} for key, value in found.items()}


def _json(value: object) -> object:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if isinstance(value, bool | str) else "" if value is None else str(value)


def render(values: Mapping[str, Mapping[str, Any]]) -> str:
    """What `values_in_force` returns as TOML, each value with its meaning, default, range and origin, and under `now`
    what is chosen where the value leaves that open. `parse` reads it."""
    default = values_in_force(Config())
    out = []
    for key in KEYS:
        if key not in ("forward", "limits"):
            out += [f"# {_sentence(KEYS[key].about)} Default: {_toml(default[key]['value'])}", *_origin(values[key])]
            out += [f"{key} = {_toml(values[key]['value'])}", ""]
    out += [f"# {_sentence(KEYS['forward'].about)} Default: none", *_origin(values["forward"]), "[forward]"]
    out += [f"{quoted(domain)} = {_toml(upstreams)}" for domain, upstreams in values["forward"]["value"].items()]
    out += ["", f"# {_sentence(KEYS['limits'].about)}", "[limits]"]
    for one in fields(Limits):
        limit, value = LIMITS[one.name], values[f"limits.{one.name}"]
        out.append(f"# {_sentence(limit.about)}")
        out.append(f"# Default: {limit.default:.10g} {limit.unit}, from {limit.least:.10g} to {limit.most:.10g}")
        out += [*_origin(value), f"{one.name} = {_toml(value['value'])}"]
    return "\n".join(out) + "\n"


def _origin(value: Mapping[str, Any]) -> list[str]:
    lines = [] if value["from"] == "default" else [f"# Set by {escape_text(value['from'])}"]
    return lines + ([f"# In force now: {escape_text(value['now'])}"] if value.get("now") else [])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return repr(value)
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return quoted_lines(str(value))
