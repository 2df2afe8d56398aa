"""Network adapters and the neighbour table, from the IP Helper API (iphlpapi.dll), which is never translated.

Structures are decoded by the layouts of iptypes.h and netioapi.h, as bytes, so that the decoding runs everywhere:
https://learn.microsoft.com/windows/win32/api/iptypes/ns-iptypes-ip_adapter_addresses_lh
https://learn.microsoft.com/windows/win32/api/netioapi/ns-netioapi-mib_ipnet_row2
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import NamedTuple

_AF_INET, _AF_INET6 = 2, 23  # also where this runs on another system
_FLAGS = 0x2 | 0x4 | 0x80  # GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_MULTICAST, GAA_FLAG_INCLUDE_GATEWAYS
_ERROR_BUFFER_OVERFLOW, _ERROR_NO_DATA, _ERROR_NOT_FOUND = 111, 232, 1168
_TRIES = 5  # adapters may appear between two calls

# Native sizes and alignment ("0P" aligns as a nested structure is), so that they are right in a 32-bit Python too.
_ADAPTER = struct.Struct("@IIPPPPPPPPP8sIIIIiI64xPQQPPII")
_ADDRESS = struct.Struct("@IIPPi0P")  # the first part of IP_ADAPTER_UNICAST_ADDRESS and its siblings
_UNICAST = struct.Struct("@IIPPi0PiiiIIIB")
_NEIGHBOUR = struct.Struct("@28sIQ32sIiB3xI")

UP = 1  # IfOperStatusUp
DEPRECATED, PREFERRED = 3, 4  # IP_DAD_STATE: these can be bound; tentative and duplicate ones cannot
INCOMPLETE = 1  # NL_NEIGHBOR_STATE: unreachable and incomplete are not above it, all others have a valid MAC


class AdapterAddress(NamedTuple):
    """An address of an adapter, its prefix length, and its IP_DAD_STATE."""

    address: str
    prefix_length: int
    state: int


class Adapter(NamedTuple):
    """A network adapter.

    interface_index6 is that of IPv6, 0 without IPv6. guid names its keys in the registry, name is the user's name of
    the connection, description the driver's, which VirtualBox uses. mac: hex digits without separators. kind: IfType of
    IANA. status: IF_OPER_STATUS. metric: that of IPv4. dns_servers are those in use, also from DHCP and router
    advertisements; Windows lists fec0:0:0:ffff::1 to ::3 where an adapter has none.
    """

    interface_index: int
    interface_index6: int
    guid: str
    name: str
    description: str
    mac: str
    kind: int
    status: int
    metric: int
    addresses: tuple[AdapterAddress, ...]
    gateways: tuple[str, ...]
    dns_servers: tuple[str, ...]
    dns_suffix: str


class NeighbourRow(NamedTuple):
    """An entry of the neighbour table; state: NL_NEIGHBOR_STATE."""

    interface_index: int
    address: str
    mac: str
    state: int


def read_adapters() -> list[Adapter]:
    """All adapters (GetAdaptersAddresses). Takes milliseconds. Raises OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    size = ctypes.c_uint32(16384)
    for _ in range(_TRIES):
        buffer = ctypes.create_string_buffer(size.value)
        error = ctypes.WinDLL("iphlpapi").GetAdaptersAddresses(0, _FLAGS, None, buffer, ctypes.byref(size))
        if error == _ERROR_NO_DATA:
            return []
        if error != _ERROR_BUFFER_OVERFLOW:
            break
    if error:
        raise ctypes.WinError(error)
    return list(decode_adapters(buffer.raw, ctypes.addressof(buffer)))


def decode_adapters(data: bytes, base: int) -> Iterator[Adapter]:
    """The adapters in a buffer that GetAdaptersAddresses filled at the address `base`."""
    at = base
    while at:
        (_, index, following, guid, unicast, _, _, servers, suffix, description, name, mac, mac_length, _, _, kind,
         status, index6, _, _, _, _, gateways, metric, _) = _ADAPTER.unpack_from(data, at - base)  # fmt: skip
        yield Adapter(
            interface_index=index,
            interface_index6=index6,
            guid=_text(data, guid - base, 1).decode("ascii", "replace"),
            name=_text(data, name - base, 2).decode("utf-16-le", "replace"),
            description=_text(data, description - base, 2).decode("utf-16-le", "replace"),
            mac=mac[:mac_length].hex(),
            kind=kind,
            status=status,
            metric=metric,
            addresses=tuple(_unicast_addresses(data, base, unicast)),
            gateways=tuple(_addresses(data, base, gateways)),
            dns_servers=tuple(_addresses(data, base, servers)),
            dns_suffix=_text(data, suffix - base, 2).decode("utf-16-le", "replace"),
        )
        at = following


def _unicast_addresses(data: bytes, base: int, at: int) -> Iterator[AdapterAddress]:
    while at:
        _, _, following, where, length, _, _, state, _, _, _, prefix = _UNICAST.unpack_from(data, at - base)
        yield AdapterAddress(_address(data[where - base : where - base + length]), prefix, state)
        at = following


def _addresses(data: bytes, base: int, at: int) -> Iterator[str]:
    while at:
        _, _, following, where, length = _ADDRESS.unpack_from(data, at - base)
        yield _address(data[where - base : where - base + length])
        at = following


def _text(data: bytes, at: int, width: int) -> bytes:
    """The text at this offset, which a zero character of this width ends."""
    if at < 0:  # a null pointer
        return b""
    end = at
    while any(data[end : end + width]):
        end += width
    return data[at:end]


def _address(sockaddr: bytes) -> str:
    """The address in a SOCKADDR, with its zone (the number of the interface) where it is link-local."""
    (family,) = struct.unpack_from("=H", sockaddr)
    if family == _AF_INET:
        return socket.inet_ntoa(sockaddr[4:8])
    if family != _AF_INET6:
        return ""
    found, (zone,) = IPv6Address(sockaddr[8:24]), struct.unpack_from("=I", sockaddr, 24)
    return f"{found}%{zone}" if found.is_link_local and zone else str(found)


def read_neighbour_table() -> list[NeighbourRow]:
    """The neighbour tables of IPv4 and IPv6 (GetIpNetTable2). Raises OSError where there is neither."""
    if sys.platform != "win32":
        raise NotImplementedError
    library = ctypes.WinDLL("iphlpapi")
    rows: list[NeighbourRow] = []
    errors = []
    for family in (_AF_INET, _AF_INET6):
        table = ctypes.c_void_p()
        error = library.GetIpNetTable2(family, ctypes.byref(table))
        if error not in (0, _ERROR_NOT_FOUND):
            errors.append(error)
        if table.value is None:
            continue
        if not error:
            count = ctypes.c_uint32.from_address(table.value).value
            rows += decode_neighbours(ctypes.string_at(table.value, 8 + count * _NEIGHBOUR.size))
        library.FreeMibTable(table)
    if len(errors) == 2:
        raise ctypes.WinError(errors[0])
    return rows


def decode_neighbours(data: bytes) -> Iterator[NeighbourRow]:
    """The rows of a MIB_IPNET_TABLE2."""
    (count,) = struct.unpack_from("=I", data)
    for at in range(8, 8 + count * _NEIGHBOUR.size, _NEIGHBOUR.size):
        sockaddr, index, _, mac, length, state, _, _ = _NEIGHBOUR.unpack_from(data, at)
        yield NeighbourRow(index, _address(sockaddr), mac[:length].hex(), state)
