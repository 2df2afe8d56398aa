"""`vmdns ask`: the DNS name that a user means by what was typed (`web`, `My VM`, `shop.web`, `_ssh._tcp.web`), and why
it has this answer or none."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

import dns.exception
import dns.name
import dns.reversename

from vmdns.dns.message import AAAA, SRV, A
from vmdns.dns.name import convert_utf8_labels, split_labels, to_label, to_text, to_wire
from vmdns.dns.upstreams import closest_domain
from vmdns.state.findings import join_words
from vmdns.state.reachability import explain_choices
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import View

_REVERSE = (b"\x07in-addr\x04arpa\0", b"\x03ip6\x04arpa\0")


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
    known = (one for one in _find_candidates(text, snapshot) if _is_known(one, snapshot))
    key = next(known, None) or _guess_name(text, snapshot)
    # The name of a service, as `_ssh._tcp.web.local` (RFC 2782).
    service = [part[:1] for part in split_labels(key)[:2]] == [b"_", b"_"]
    return TypedName(key, "SRV" if service else "A", _describe_change(text, key, snapshot))


def _find_candidates(text: str, snapshot: Snapshot) -> Iterator[bytes]:
    """Names that the text may mean, the likeliest first."""
    zones = [to_text(zone) for zone in snapshot.policy.own]
    zone = next((one for one in zones if text.lower().endswith(f".{one}")), None)
    relative = text if zone is None else text[: -len(zone) - 1]
    parts = [part if part.startswith("_") else to_label(part) for part in relative.split(".")]
    names = [relative, ".".join(parts), to_label(relative)]
    for guest in snapshot.guests:
        if guest.machine.name.lower() == relative.lower():
            names.append(guest.named.label)
    texts = [f"{name}.{zone or zones[0]}" for name in names]
    if "." not in text:
        texts.append(text)  # such as a name of the hosts file
    for one in texts:
        try:
            key = to_wire(one)
        except ValueError:
            continue
        yield convert_utf8_labels(key) or key


def _guess_name(text: str, snapshot: Snapshot) -> bytes:
    """What a text means that is no known name: a VM's name where it has no dot, else the name as written."""
    if "." in text and " " not in text:
        return convert_utf8_labels(to_wire(text)) or to_wire(text)
    made = to_label(text)
    if not made:
        raise ValueError(f"{text!r} is no name: nothing of it can be in a DNS name; write it like web")
    return to_wire(f"{made}.{to_text(snapshot.policy.own[0])}")


def _is_known(key: bytes, snapshot: Snapshot) -> bool:
    """Whether a name has records, has names below it, or is below the name of a VM, also of one that is off."""
    if any(key in names for names in (snapshot.nodes, snapshot.late, snapshot.above, snapshot.outside)):
        return True
    return any(closest_domain(key, names) is not None for names in (snapshot.owned, snapshot.absent))


def _describe_change(text: str, key: bytes, snapshot: Snapshot) -> str:
    name, typed = to_text(key), text.lower()
    if name == typed or ("." not in typed and name == f"{typed}.{to_text(snapshot.policy.own[0])}"):
        return ""
    if name.startswith(f"{typed}."):
        return f"{text} is taken for {name}, a name of the VMs; for the name outside, type {text}. with a final dot"
    return f"{text!r} is asked for as {name}"


# -- why there is this answer, or none --------------------------------------------------------------------------


def explain(snapshot: Snapshot, key: bytes, now: float, view: View, kind: int | None = None) -> list[str]:
    """Why a name is answered to this view as it is, to a query for this record type: one sentence each."""
    text = to_text(key)
    lines = [f"{text} is answered from this computer's hosts file"] if _is_in_hosts_file(snapshot, key) else []
    zone = next((zone for zone in map(to_text, snapshot.policy.own) if text.endswith(f".{zone}")), None)
    labels = tuple(text.removesuffix(f".{zone}").split(".")) if zone else ()
    guests = snapshot.by_uuid.values()
    for guest in guests:
        if labels in guest.named.denied:
            lines += [f"VM {guest.machine.name!r} ({guest.machine.uuid}) {one}" for one in guest.named.problems]
    # The VMs that have this name, or the closest name above it.
    named = ([guest for guest in guests if labels[at:] in guest.named.names] for at in range(len(labels)))
    for guest in next(filter(None, named), ()):
        machine = guest.machine
        lines.append(f"{text} is VM {machine.name!r} ({machine.uuid}), which is {machine.state}")
        if machine.online:
            sources = {one.address: f" ({one.origin(now)})" for one in guest.addresses}
            for address, reason in explain_choices(guest, snapshot.vm_view(guest, view), view, snapshot.host_networks):
                if kind is None or _is_answered(address, kind, key):
                    lines.append(f"{reason}{sources.get(address, '')}")
        if guest.note:
            lines.append(guest.note)
        places = dict.fromkeys((one.address, one.network) for one in guest.addresses)
        lines += [str(snapshot.shared[place]) for place in places if place in snapshot.shared]
        lines += dict.fromkeys(one.advice for one in (*guest.named.problems, *guest.refused) if one.advice)
        if machine.online and not guest.waiting and (reason := snapshot.vm_view(guest, view).why):
            lines.append(reason)
    for address, uuid in snapshot.pointers.get(key, ()):
        guest = snapshot.by_uuid[uuid]
        networks = [one.network.phrase for one in guest.addresses if one.address == address]
        lines.append(f"{address} is VM {guest.machine.name!r} ({uuid}) on {' and '.join(networks)}")
    return lines


def _is_answered(address: str, kind: int, key: bytes) -> bool:
    """Whether an address is in answers of this record type for this name, or what a service's answer leads to."""
    return kind == (AAAA if ":" in address else A) or (kind == SRV and key[1:2] == b"_")


def _is_in_hosts_file(snapshot: Snapshot, key: bytes) -> bool:
    """Whether a name has the address of a line in the hosts file: VMs that run and own records come before it."""
    if key in snapshot.owned or snapshot.nodes.get(key):
        return False
    return not {A, AAAA}.isdisjoint(snapshot.late.get(key) or snapshot.outside.get(key, {}))


def explain_no_answer(key: bytes, kind: str, rcode: str, reason: str, snapshot: Snapshot, view: View) -> str:
    """One or two sentences. key: the wire name in lower case; kind, rcode: as text; reason: the Extended DNS Error.

    Compares the name with those of all VMs, which takes long where there are thousands.
    """
    name = to_text(key)
    because = f": {reason}" if reason else ""
    if rcode == "NXDOMAIN" and not reason:
        return f"{_explain_no_name(key, name, snapshot, view)} (NXDOMAIN)"
    if rcode == "NXDOMAIN":
        return f"{name} is not answered (NXDOMAIN){because}"
    if rcode == "NOERROR":
        return f"{name} has no {kind} record (NODATA){because}"
    if rcode == "REFUSED":
        return f"vmdns refuses to answer (REFUSED){because}"
    return f"vmdns has no answer for {name} ({rcode}){because or '; vmdns status shows how the upstreams fare'}"


def _explain_no_name(key: bytes, name: str, snapshot: Snapshot, view: View) -> str:
    if key.endswith(_REVERSE):
        return _explain_no_pointer(name, snapshot)
    if not key.endswith(snapshot.policy.own):
        return f"There is no name {name}"
    owner = closest_domain(key, snapshot.owned)
    guest = None if owner is None else snapshot.owner(owner)
    if guest is not None and key[1:2] == b"_":
        services = [f"_{one.name}._{one.protocol}" for one in snapshot.vm_view(guest, view).services]
        has = join_words(services) if services else "none: they come from port-forward rules"
        return f"VM {guest.machine.name!r} has no service {name}; it has {has}"
    if guest is not None:
        return f"{name} lies below VM {guest.machine.name!r}, and names below VMs are switched off (wildcards = false)"
    relative = next((to_text(key[: -len(zone)] + b"\0") for zone in snapshot.policy.own if key.endswith(zone)), name)
    similar = _find_similar_name(relative, snapshot)
    return f"No VM is called {relative}." + (f" Did you mean {similar}?" if similar else "")


def _explain_no_pointer(name: str, snapshot: Snapshot) -> str:
    """The sentence for a reverse name: `vmdns ask 10.0.2.4` where that is no VM's address, or not for this client."""
    try:
        address = dns.reversename.to_address(dns.name.from_text(name))
    except (dns.exception.DNSException, ValueError):  # a name of fewer labels than an address has
        return f"There is no name {name}"
    if any(one.address == address for guest in snapshot.guests for one in guest.addresses):
        return f"No VM that this client can reach has the address {address}"
    return f"No name is known for {address}"


def _find_similar_name(relative: str, snapshot: Snapshot) -> str:
    """The name of a VM that is most like this name below a zone, of those that are not much longer or shorter; '' where
    none is."""
    names = {".".join(name) for guest in snapshot.guests for name in guest.named.names[:-1]}
    found: list[tuple[float, str]] = []
    for wanted in {relative, relative.rpartition(".")[2]}:
        near = [name for name in names if abs(len(name) - len(wanted)) <= 3]
        for name in difflib.get_close_matches(wanted, near, 1):
            found.append((difflib.SequenceMatcher(None, wanted, name).ratio(), name))
    return max(found, default=(0.0, ""))[1]
