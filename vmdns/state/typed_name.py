"""The DNS name that a user means by what was typed: `web`, `My VM`, `shop.web`, `_ssh._tcp.web`, `www.example.com`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.dns.name import convert_utf8_labels, split_labels, to_label, to_text, to_wire
from vmdns.state.snapshot import Snapshot


class TypedName(NamedTuple):
    """A name in wire form, the record type that it is asked for by default, and what was changed of the text."""

    key: bytes
    kind: str = "A"
    note: str = ""


def parse_typed_name(text: str, snapshot: Snapshot) -> TypedName:
    """The name that `text` means: an address means its PTR record, and names of VMs come before all others.

    A name with a final dot is taken as it is. Raises ValueError where the text cannot be a name.
    """
    try:
        address = ip_address(text)
    except ValueError:
        pass
    else:
        # Without the zone id of a link-local address, which DNS does not know.
        return TypedName(to_wire(type(address)(int(address)).reverse_pointer), "PTR")
    if text.endswith("."):
        return TypedName(to_wire(text))
    known = (one for one in _candidates(text, snapshot) if _is_known(one, snapshot))
    key = next(known, None) or _fallback(text, snapshot)
    return TypedName(key, "SRV" if _is_service(key) else "A", _note(text, key, snapshot))


def _candidates(text: str, snapshot: Snapshot) -> Iterator[bytes]:
    """Names that the text may mean, the likeliest first."""
    whole = _zone_of(text, snapshot)
    relative = text if whole is None else text[: -len(whole) - 1]
    suffix = f".{whole or to_text(snapshot.policy.own[0])}"
    parts = [part if part.startswith("_") else to_label(part) for part in relative.split(".")]
    yield from _wire(relative + suffix)
    yield from _wire(".".join(parts) + suffix)
    yield from _wire(to_label(relative) + suffix)
    for guest in snapshot.by_uuid.values():
        if guest.machine.name.lower() == relative.lower():
            yield from _wire(".".join(guest.named.names[0]) + suffix)
    if "." not in text:
        yield from _wire(text)  # such as a name of the hosts file


def _fallback(text: str, snapshot: Snapshot) -> bytes:
    """What a text means that is no known name: a VM's name where it has no dot, else the name as written."""
    if "." in text and " " not in text:
        return convert_utf8_labels(to_wire(text)) or to_wire(text)
    made = to_label(text)
    if not made:
        raise ValueError(f"{text!r} is no name: nothing of it can be in a DNS name; write it like web")
    return to_wire(f"{made}.{to_text(snapshot.policy.own[0])}")


def _zone_of(text: str, snapshot: Snapshot) -> str | None:
    """The zone of VM names in which the text lies."""
    return next((zone for zone in map(to_text, snapshot.policy.own) if text.lower().endswith(f".{zone}")), None)


def _wire(text: str) -> Iterator[bytes]:
    try:
        key = to_wire(text)
    except ValueError:
        return
    yield convert_utf8_labels(key) or key


def _is_known(key: bytes, snapshot: Snapshot) -> bool:
    """Whether a name has records, has names below it, or is below the name of a VM, also of one that is off."""
    if key in snapshot.nodes or key in snapshot.late or key in snapshot.above or key in snapshot.outside:
        return True
    while len(key) > 1:
        if key in snapshot.owned or key in snapshot.absent:
            return True
        key = key[1 + key[0] :]
    return False


def _is_service(key: bytes) -> bool:
    """Whether it is the name of a service, as `_ssh._tcp.web.local` (RFC 2782)."""
    return [part[:1] for part in split_labels(key)[:2]] == [b"_", b"_"]


def _note(text: str, key: bytes, snapshot: Snapshot) -> str:
    asked, typed = to_text(key), text.lower()
    if asked == typed or ("." not in typed and asked == f"{typed}.{to_text(snapshot.policy.own[0])}"):
        return ""
    if asked.startswith(f"{typed}."):
        return f"{text} is taken for {asked}, a name of the VMs; for the name outside, type {text}. with a final dot"
    return f"{text!r} is asked for as {asked}"


def find_similar_name(key: bytes, snapshot: Snapshot) -> str:
    """The name of a VM that is most like this one, of those that are not much longer or shorter; '' where none is."""
    zone = next((zone for zone in snapshot.policy.own if key.endswith(zone)), None)
    if zone is None:
        return ""
    parts = [part.decode("ascii", "replace") for part in split_labels(key[: -len(zone)] + b"\0")]
    whole, last = ".".join(parts), parts[-1] if parts else ""
    names = {".".join(name) for guest in snapshot.by_uuid.values() for name in guest.named.names[:-1]}
    found: list[tuple[float, str]] = []
    for wanted in {whole, last}:
        near = [name for name in names if abs(len(name) - len(wanted)) <= 3]
        for name in difflib.get_close_matches(wanted, near, 1):
            found.append((difflib.SequenceMatcher(None, wanted, name).ratio(), name))
    return max(found, default=(0.0, ""))[1]


def relative_text(key: bytes, snapshot: Snapshot) -> str:
    """The name below its zone of VM names as text, or the whole of it elsewhere."""
    zone = next((zone for zone in snapshot.policy.own if key.endswith(zone) and key != zone), None)
    return to_text(key if zone is None else key[: -len(zone)] + b"\0")
