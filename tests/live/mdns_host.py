"""The host on the other end of the link: runs multicast DNS of vmdns by lines of JSON on its input.

{"links": {interface: {"prefixes": [...], "names": {name: [address, ...]}}}} or {"find": [name, type]}; it prints what
vmdns logs as {"said": text}, and the addresses it finds as {"found": [...]}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from ipaddress import ip_interface

from vmdns.dns.message import AAAA
from vmdns.dns.name import to_wire
from vmdns.mdns.links import Link
from vmdns.mdns.transport import Multicast


def send(value: dict[str, object]) -> None:
    print(json.dumps(value), flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    links: dict[str, Link] = {}
    multicast = Multicast(lambda text: send({"said": text}), lambda: links)
    while line := await reader.readline():
        request = json.loads(line)
        if "links" in request:
            links = {
                interface: Link(
                    tuple(ip_interface(one) for one in link["prefixes"]),
                    {to_wire(name): tuple(addresses) for name, addresses in link["names"].items()},
                )
                for interface, link in request["links"].items()
            }
            multicast.set_links(links)
            send({"done": True})
        else:
            name, kind = request["find"]
            start = loop.time()
            found = await multicast.find(to_wire(name), "") or ()
            send({"found": [one for one in found if (":" in one) == (kind == AAAA)], "seconds": loop.time() - start})
    multicast.close()


with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    runner.run(main())
