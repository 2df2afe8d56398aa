"""The values of vmdns.toml: each reader takes what TOML gave and returns what `Config` holds.

All raise ValueError with what is wrong and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vmdns.dns import name
from vmdns.dns.limits import LIMITS, Limits
from vmdns.dns.upstreams import Upstream
from vmdns.host.system_settings import ListenAddress

# A name below a zone may have a label of 63 bytes with its length byte in 255 (RFC 1035 section 2.3.4).
MAX_ZONE = name.MAX_NAME - name.MAX_LABEL - 1
MAX_ITEMS = 256
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\Z")


class Inside(ValueError):
    """Wrong is not the value as a whole but the key inside it; an empty text means that key is unknown."""

    def __init__(self, key: str, what: str = "") -> None:
        super().__init__(what)
        self.key = key


def address_and_port(text: str, least_port: int = 1) -> tuple[str, int]:
    """Reads ADDR, ADDR:PORT, an IPv6 address or [IPv6 address]:PORT; the port is 53 where none is said."""
    host, port = text.strip(), ""
    if found := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", host):
        host, port = found[1], found[2] or ""
    elif host.count(":") == 1:
        host, port = host.split(":")
    try:
        address = str(ipaddress.ip_address(host))
        if re.search(r"[\s\[\]]", address):
            raise ValueError("not a zone id")
    except ValueError:
        raise ValueError(
            f'{text!r} is not an address with a port; write it like "192.0.2.1", "192.0.2.1:53" or "[2001:db8::1]:53"'
        ) from None
    if not port and not text.strip().endswith(":"):
        return address, 53
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and least_port <= int(port) <= 65535):
        raise ValueError(f"{text!r} has no valid port; a port is a number from {least_port} to 65535")
    return address, int(port)


def listen(value: Any) -> tuple[ListenAddress, ...]:
    """Addresses to listen at, each once."""
    found = tuple(dict.fromkeys(ListenAddress(*address_and_port(item, 0)) for item in texts(value, "127.0.0.1:53")))
    for one in found:
        if ipaddress.ip_address(one.address).is_multicast:
            raise ValueError(f"{one.address} is a multicast address; name an address of this host")
    return found


def binding(value: Any) -> str:
    """How sockets are bound."""
    if value == "wildcard" and sys.platform == "win32":
        raise ValueError("Windows does not say to which address a datagram was sent; write auto or address")
    return one_of("auto", "address", "wildcard")(value)


def upstreams(value: Any) -> tuple[Upstream, ...]:
    """Servers to forward to, each once."""
    found = tuple(dict.fromkeys(Upstream(*address_and_port(item)) for item in texts(value, "192.0.2.1:53")))
    for one in found:
        parsed = ipaddress.ip_address(one.address)
        if parsed.is_multicast or parsed.is_unspecified or one.address == "255.255.255.255":
            raise ValueError(f"{one.address} is not the address of one server; name the server's own address")
    return found


def texts(value: Any, example: str) -> list[str]:
    """A list of texts."""
    if isinstance(value, str):
        raise ValueError(f'a list is expected; write ["{value}"]')
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f'a list of texts is expected, like ["{example}"]')
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{len(value)} items are too many; at most {MAX_ITEMS}")
    return value


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"a text in quotes is expected, not {_shown(value)}")
    return value


def truth(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"true or false is expected, without quotes, not {_shown(value)}")
    return value


def one_of(*words: str) -> Callable[[Any], str]:
    """Reads one of these words."""

    def read(value: Any) -> str:
        if value not in words:
            *others, last = (f'"{word}"' for word in words)
            raise ValueError(f"{_shown(value)} has no meaning here; write {', '.join(others)} or {last}")
        return str(value)

    return read


def home(value: Any) -> str | None:
    """A folder by its full path, ~ allowed; None for the empty text."""
    if not text(value):
        return None
    try:
        path = Path(value).expanduser()
        usable = "\0" not in value and (path.is_dir() or not path.exists())
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{value!r} cannot be used as a folder: {error}") from None
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not a full path; write it from the root or with ~")
    if not usable:
        raise ValueError(f"{value!r} is not a folder; name the one that holds VirtualBox.xml")
    return str(path)


def labels(value: Any) -> tuple[str, ...]:
    """Single labels, as VM names become them."""
    for item in texts(value, "wpad"):
        made = name.to_label(item)
        if made != item.lower() or not made:
            raise ValueError(f"{item!r} is not one label" + (f"; write {made!r}" if made else ", like 'wpad'"))
    return tuple(dict.fromkeys(item.lower() for item in value))


def domain(value: str) -> str:
    """A domain name in lower case, without the final dot, other scripts as A-labels (RFC 5890)."""
    try:
        wire = name.to_wire(value.strip())
        wire = name.convert_utf8_labels(wire) or wire
    except ValueError as error:
        raise ValueError(f"{error}; write it like 'corp.example'") from None
    parts = [part.decode("ascii", "replace") for part in name.split_labels(wire)]
    if not parts or not all(_LABEL.match(part) for part in parts):
        raise ValueError(f"{value!r} is not a domain name; write it like 'corp.example'")
    return ".".join(parts)


def domains(value: Any, example: str = "fritz.box") -> tuple[str, ...]:
    """A list of domains, each once."""
    return tuple(dict.fromkeys(map(domain, texts(value, example))))


def zones(value: Any) -> tuple[str, ...]:
    """The zones of VM names: at least one, none inside another, none for reverse names."""
    found = domains(value, "local")
    if not found:
        raise ValueError('at least one zone is needed, like ["local"]')
    for zone in found:
        if len(name.to_wire(zone)) > MAX_ZONE:
            raise ValueError(f"{zone!r} leaves no room for a VM's name; at most {MAX_ZONE} bytes")
        if f".{zone}".endswith(".arpa") and not f".{zone}".endswith(".home.arpa"):
            raise ValueError(f"{zone!r} is not for names of VMs; PTR records are made by themselves")
        for other in found:
            if zone.endswith(f".{other}"):
                raise ValueError(f"{zone!r} lies inside {other!r}; keep one of the two")
    return found


def forward(value: Any) -> tuple[tuple[str, tuple[Upstream, ...]], ...]:
    """Domains with the servers they go to. Raises `Inside`."""
    if not isinstance(value, dict):
        raise ValueError('a table is expected: [forward], and below it "corp.example" = ["192.0.2.1"]')
    found: dict[str, tuple[Upstream, ...]] = {}
    for key, servers in _flatten(value):
        try:
            made = domain(key)
            if made in found:
                raise ValueError("the domain is named twice")
            found[made] = upstreams(servers)
            if not found[made]:
                raise ValueError('at least one server is needed, like ["192.0.2.1"]')
        except ValueError as error:
            raise Inside(key, str(error)) from None
    return tuple(found.items())


def _flatten(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The domains of [forward]: one written without quotes, corp.example = [...], is nested tables to TOML."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield above + key, value


def limits(value: Any) -> Limits:
    """The numbers of [limits] within their bounds. Raises `Inside`."""
    if not isinstance(value, dict):
        raise ValueError("a table is expected: [limits], and below it like ttl = 5")
    found: dict[str, Any] = {}
    for key, number in value.items():
        limit = LIMITS.get(key)
        if limit is None:
            raise Inside(key)
        whole = isinstance(limit.default, int)
        bounds = f"from {limit.least:.10g} to {limit.most:.10g} {limit.unit}"
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
            raise Inside(key, f"a {'whole ' if whole else ''}number {bounds} is expected, not {_shown(number)}")
        if not limit.least <= number <= limit.most:
            raise Inside(key, f"{number} is out of bounds; write a number {bounds}")
        found[key] = number if whole else float(number)
    return Limits(**found)


def _shown(value: object) -> str:
    """The value in an error text: short, and as TOML calls it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)[:60] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
