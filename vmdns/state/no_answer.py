"""Why a query has no answer, in words: what `vmdns ask` prints for NXDOMAIN, NODATA, REFUSED and SERVFAIL."""

from __future__ import annotations

import dns.exception
import dns.name
import dns.reversename

from vmdns.dns.name import to_text
from vmdns.state.guests import Guest
from vmdns.state.problem import join_words
from vmdns.state.snapshot import Snapshot
from vmdns.state.typed_name import find_similar_name, relative_text
from vmdns.state.views import View

_REVERSE = (b"\x07in-addr\x04arpa\0", b"\x03ip6\x04arpa\0")


def explain_no_answer(key: bytes, kind: str, rcode: str, reason: str, snapshot: Snapshot, view: View) -> str:
    """One or two sentences. key: the wire name in lower case; kind, rcode: as text; reason: the Extended DNS Error.

    Compares the name with those of all VMs, which takes long where there are thousands.
    """
    name = to_text(key)
    because = f": {reason}" if reason else ""
    if rcode == "NXDOMAIN":
        if reason:
            return f"{name} is not answered (NXDOMAIN){because}"
        return f"{_explain_no_name(key, name, snapshot, view)} (NXDOMAIN)"
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
    guest = _owner_above(key, snapshot)
    if guest is not None and key[1:2] == b"_":
        services = [f"_{one.name}._{one.protocol}" for one in snapshot.vm_view(guest, view).services]
        has = join_words(services) if services else "none: they come from port-forward rules"
        return f"VM {guest.machine.name!r} has no service {name}; it has {has}"
    if guest is not None:
        return f"{name} lies below VM {guest.machine.name!r}, and names below VMs are switched off (wildcards = false)"
    similar = find_similar_name(key, snapshot)
    hint = f" Did you mean {similar}?" if similar else ""
    return f"No VM is called {relative_text(key, snapshot)}.{hint}"


def _explain_no_pointer(name: str, snapshot: Snapshot) -> str:
    """The sentence for a reverse name: `vmdns ask 10.0.2.4` where that is no VM's address, or not for this client."""
    try:
        address = dns.reversename.to_address(dns.name.from_text(name))
    except (dns.exception.DNSException, ValueError):  # a name of fewer labels than an address has
        return f"There is no name {name}"
    if any(one.address == address for guest in snapshot.guests for one in guest.addresses):
        return f"No VM that this client can reach has the address {address}"
    return f"No name is known for {address}"


def _owner_above(key: bytes, snapshot: Snapshot) -> Guest | None:
    """The running VM that has a name above this one."""
    while key[0]:
        guest = snapshot.owner(key)
        if guest is not None:
            return guest
        key = key[1 + key[0] :]
    return None
