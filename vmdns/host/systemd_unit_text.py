"""The units by which systemd runs vmdns: the server, confined; and beside it, what talks to VirtualBox.

A service of the system and not of the user, because only that can be given the right to port 53 and confined by the
system. It runs as the user who owns the VMs, and starts and ends with that user's own manager, user@UID.service.

The server answers strangers, so it is confined (systemd.exec(5)). What it started would be confined as well, and
VirtualBox's VMs do not bear that: VBoxHeadless, VirtualBoxVM and VBoxNetAdpCtl are setuid root ("Effective UID is not
root" with NoNewPrivileges), and VBoxSVC, which a reader of VirtualBox starts where none runs, starts the VMs. So the
server starts nothing. It connects to a socket of systemd, which starts a worker outside of the confinement for each
connection (systemd.socket(5), Accept=yes; sources/worker_socket.py). That one has no socket of a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vmdns.dns.escaping import safe
from vmdns.host.program import Program

FOLDER = "/etc/systemd/system"
WATCHDOG_SECONDS = 60
# setrlimit is not among the allowed calls, so the unit sets what vmdns needs: each forwarded query takes one.
_OPEN_FILES = 8192

# sched_setattr is for server/scheduling_linux.py alone.
_CONFINED = """\
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=-{runtime}
InaccessiblePaths=-{runtime}/bus -{runtime}/systemd
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=sched_setattr
SystemCallErrorNumber=EPERM
KeyringMode=private
UMask=0077
LimitNOFILE={files}
TasksMax=256
"""


def unit_name(user: str) -> str:
    """vmdns-alice.service, with what a unit's name cannot have escaped as systemd-escape(1) does."""
    return f"vmdns-{_escaped(user)}.service"


def socket_name(user: str) -> str:
    """The socket behind which a worker is started for each connection."""
    return f"vmdns-beside-{_escaped(user)}.socket"


def beside_name(user: str) -> str:
    """The template of what is started for each connection to the socket."""
    return f"vmdns-beside-{_escaped(user)}@.service"


def _escaped(user: str) -> str:
    return "".join(
        char if re.match(r"[A-Za-z0-9:_.-]", char) else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in user
    )


def text(program: Program) -> str:
    """The unit of the server."""
    owner = program.owner
    manager, runtime = f"user@{owner.uid}.service", f"/run/user/{owner.uid}"
    environ = [("XDG_RUNTIME_DIR", runtime), ("VMDNS_BESIDE", _place(program)), *program.environ]
    confined = _CONFINED.format(runtime=runtime, files=_OPEN_FILES).splitlines()
    lines = [
        f"# by vmdns service install: starts vmdns when {safe(owner.name)} logs in",
        "[Unit]",
        f"Description=DNS for the VMs of {_described(program)} (vmdns)",
        f"After={manager} {socket_name(owner.name)}",
        f"Requires={socket_name(owner.name)}",
        f"PartOf={manager}",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=notify",
        f"User={_user(program)}",
        *_environment(environ),
        f"ExecStart={_command(program.command)}",
        "Restart=on-failure",
        "RestartSec=500ms",
        "TimeoutStartSec=120",
        "TimeoutStopSec=15",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        *confined,
        "",
        "[Install]",
        f"WantedBy={manager}",
        "",
    ]
    return "\n".join(lines)


def socket_text(program: Program) -> str:
    """The unit of the socket: for this user alone, in a folder that is root's."""
    lines = [
        f"# by vmdns service install: where the vmdns of {safe(program.owner.name)} has VirtualBox read",
        "[Unit]",
        f"Description=VirtualBox of {_described(program)}, for vmdns",
        f"PartOf={unit_name(program.owner.name)}",
        "",
        "[Socket]",
        f"ListenStream={_place(program)}",
        f"SocketUser={_user(program)}",
        "SocketMode=0600",
        "RemoveOnStop=yes",
        "Accept=yes",
        "MaxConnections=8",
        "",
    ]
    return "\n".join(lines)


def beside_text(program: Program) -> str:
    """The unit of what the socket starts.

    VBoxSVC and VMs may run below it, and outlive it: so nothing confines it, and nothing but itself is ended with it.
    """
    owner = program.owner
    runtime = f"/run/user/{owner.uid}"
    # A VBoxSVC started from here must find what one from the desktop finds: sound, and the bus of the session.
    environ = [("XDG_RUNTIME_DIR", runtime), ("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus"), *program.environ]
    lines = [
        f"# by vmdns service install: reads VirtualBox for the vmdns of {safe(owner.name)}",
        "[Unit]",
        f"Description=VirtualBox of {_described(program)}, read for vmdns",
        "CollectMode=inactive-or-failed",
        "",
        "[Service]",
        f"User={_user(program)}",
        *_environment(environ),
        f"ExecStart={_command((program.command[0], '-P', '-m', 'vmdns.daemon.worker_service'))}",
        "StandardInput=socket",
        "StandardOutput=socket",
        "StandardError=journal",
        "TimeoutStopSec=15",
        "# VBoxSVC and VMs may run below this service. They outlive it, and are not to be in a sandbox.",
        "KillMode=process",
        "OOMPolicy=continue",
        "PrivateTmp=no",
        "",
    ]
    return "\n".join(lines)


def _place(program: Program) -> str:
    return f"/run/vmdns-beside-{program.owner.uid}.sock"


def _user(program: Program) -> str:
    name = program.owner.name
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) else str(program.owner.uid)


def _described(program: Program) -> str:
    return safe(program.owner.name).replace("%", "%%")


def _environment(environ: Iterable[tuple[str, str]]) -> list[str]:
    return [f"Environment={_word(f'{key}={value}')}" for key, value in environ]


def _command(words: Iterable[str]) -> str:
    return " ".join(_word(one, command=True) for one in words)


def _word(word: str, *, command: bool = False) -> str:
    """A word as unit files have it: quoted where need be, % doubled, and in command lines $ too."""
    shown = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        shown = shown.replace("$", "$$")
    shown = re.sub(r"[\x00-\x1f\x7f]", lambda one: f"\\x{ord(one[0]):02x}", shown)
    return shown if re.fullmatch(r"[^\s'\"\\;#]+", word) and shown.isprintable() else f'"{shown}"'
