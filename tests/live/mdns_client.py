"""Another program on the wire, python-zeroconf: resolves names, or has some of its own.

resolve NAME...          the addresses of each, one line of JSON
pointer ADDRESS          what the address points to
announce NAME ADDRESS    has that name until its input ends; prints a line once it has it
"""

from __future__ import annotations

import json
import sys
import threading
from ipaddress import ip_address

from zeroconf import (
    AddressResolver,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    IPVersion,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)

A_SECOND = 1000.0


def resolve(zeroconf: Zeroconf, names: list[str]) -> None:
    found = {}
    for name in names:
        resolver = AddressResolver(f"{name}.")
        resolver.request(zeroconf, 3 * A_SECOND)
        found[name] = sorted(resolver.parsed_addresses())
    print(json.dumps(found))


def pointer(zeroconf: Zeroconf, address: str) -> None:
    name = f"{ip_address(address).reverse_pointer}."
    heard = threading.Event()

    class Listener(RecordUpdateListener):
        def async_update_records(self, zc: Zeroconf, now: float, records: list) -> None:  # type: ignore[type-arg]
            for one in records:
                if isinstance(one.new, DNSPointer) and one.new.name == name:
                    print(json.dumps(one.new.alias), flush=True)
                    heard.set()

    zeroconf.add_listener(Listener(), None)
    out = DNSOutgoing(0)
    out.add_question(DNSQuestion(name, 12, 1))
    zeroconf.send(out)
    if not heard.wait(5):
        print("null")


def announce(zeroconf: Zeroconf, name: str, address: str) -> None:
    # It publishes a host's name only as that of a service.
    info = ServiceInfo(
        "_test._tcp.local.", f"{name.split('.')[0]} test._test._tcp.local.", port=1, server=f"{name}.",
        parsed_addresses=[address],
    )  # fmt: skip
    zeroconf.register_service(info)
    print(json.dumps(info.server), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    running = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        if verb == "resolve":
            resolve(running, arguments)
        else:
            {"pointer": pointer, "announce": announce}[verb](running, *arguments)
    finally:
        running.close()
