"""`vmdns demo`: where it listens, and what it tells the user to try."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from vmdns.commands import CommandError, command_name
from vmdns.config import Options
from vmdns.config_types import listen as parse_listen
from vmdns.control.requests import SIMULATION
from vmdns.daemon.listen_addresses import FALLBACK_PORTS
from vmdns.demo.scene import LOOPBACK, describe_client
from vmdns.host.system_settings import ListenAddress
from vmdns.server.listeners import bind

WORKER = (sys.executable, "-P", "-m", "vmdns.demo.worker")
NOTE = f"{SIMULATION} Nothing on this computer is changed."
HOST = "127.0.0.1"
# Nothing of this computer is changed or announced to its networks, and no line of its hosts file hides a name.
OFF = {"demo": True, "wire": False, "mdns": False, "mdns_relay": False, "hosts": False, "vbox_home": ""}


def options(given: Options) -> tuple[Options, list[str]]:
    """The options of `vmdns run` for a simulation, and notes for the user, as on options that do nothing.

    It listens at the addresses that are given, or at 127.0.0.1 and a port that is free, and at the loopback
    addresses that stand for networks. Raises `CommandError` where no port is free.
    """
    ignored = {"wire": "--wire", "reader": "--reader", "vbox_home": "--vbox-home"}
    notes = [NOTE] + [f"{option} does nothing in a simulation" for key, option in ignored.items() if key in given]
    made = {key: given[key] for key in ("listen", "upstreams") if key in given} | OFF
    try:
        wanted = parse_listen(given.get("listen", [])) or (ListenAddress(HOST, 0),)
    except ValueError:
        return made, notes  # Config.with_options says what is wrong
    everywhere = any(ip_address(one.address.partition("%")[0]).is_unspecified for one in wanted)
    standing = [] if everywhere else [address for address in LOOPBACK if _is_free(address, 0)]
    if everywhere:
        notes.append("a server at all addresses cannot tell which network a loopback address stands for")
    elif not standing:
        notes.append(f"{next(iter(LOOPBACK))} is no address here, so no loopback address stands for a network")
    ports: Iterable[int] = (wanted[0].port,)
    if not wanted[0].port:
        ports = (_free_port(),) if "listen" in given else FALLBACK_PORTS
    first = [wanted[0].address, *standing]
    port = next((one for one in ports if "listen" in given or all(_is_free(address, one) for address in first)), None)
    if port is None:
        raise CommandError(
            f"no port of {FALLBACK_PORTS[0]}-{FALLBACK_PORTS[-1]} is free; name one by --listen {HOST}:PORT"
        )
    listens = [one._replace(port=one.port or port) for one in wanted]
    listens += [ListenAddress(address, port) for address in standing]
    return made | {"listen": list(map(str, dict.fromkeys(listens)))}, notes


def guide(zone: str, listeners: Sequence[tuple[str, int]]) -> list[str]:
    """The lines that a user may try in another terminal. listeners: the addresses and ports that are answered at."""
    ports = dict(listeners)
    dig = shutil.which("dig") is not None
    lines = ["", "Try in another terminal:", ""]
    for address, client, words, about in (
        (HOST, "", f"db.{zone}", "asked by this computer"),
        ("127.0.1.1", " --as web", f"db.{zone}", f"by {describe_client('127.0.1.1')}"),
        ("127.0.1.2", " --as 서버", "-x 10.0.2.4", f"by {describe_client('127.0.1.2')}, where 10.0.2.4 is 서버"),
    ):
        command = f"{command_name()} ask {words.removeprefix('-x ')}{client}"
        if dig and address in ports:
            command = f"dig @{address} -p {ports[address]} +noall +answer {words}"
        wide = sum(unicodedata.east_asian_width(letter) == "W" for letter in command)
        lines.append(f"  {command:<{54 - wide}}  # {about}")
    more = f"{command_name()} names --watch shows each change; ask, status and doctor work as well. Ctrl-C ends it."
    return [*lines, "", more, ""]


def _free_port() -> int:
    with contextlib.closing(bind(HOST, 0)) as listener:
        return listener.port


def _is_free(address: str, port: int) -> bool:
    """Whether this address and port can be listened at; a port that is not allowed counts as free, as a later one is
    taken instead of it."""
    try:
        bind(address, port).close()
    except OSError as error:
        return error.errno == errno.EACCES
    return True
