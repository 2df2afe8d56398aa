"""Lease files as VBoxNetDHCP 7.2 writes them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path


def lease_file(
    leases: Iterable[tuple[str, str]], *, seconds: int = 600, state: str = "acked", issued: float | None = None
) -> bytes:
    """A lease file with these MACs, without colons, and addresses. issued: Unix seconds, now if not given."""
    issued = int(time.time() if issued is None else issued)
    entries = "".join(
        f'  <Lease mac="{":".join(re.findall("..", mac.lower()))}" id="01{mac.lower()}" network="0.0.0.0" '
        f'state="{state}">\n    <Address value="{address}"/>\n    <Time issued="{issued}" expiration="{seconds}"/>\n'
        "  </Lease>\n"
        for mac, address in leases
    )
    return f'<?xml version="1.0"?>\n<Leases version="1.0">\n{entries}</Leases>\n'.encode()


def write_leases(home: Path, network: str, content: bytes) -> None:
    """Replaces the lease file of a network: written beside it, then renamed."""
    file = home / f"{network}-Dhcpd.leases"
    new = file.with_name(file.name + "-tmp")
    new.write_bytes(content)
    if file.exists():
        file.replace(file.with_name(file.name + "-prev"))
    new.replace(file)
