"""Linux: vmdns as a system service of systemd: its unit files, its state (systemctl(1)), and what it receives from
systemd: a notification socket (sd_notify(3)) and capabilities (capabilities(7)).

A system service and not a user service, because only that can get the right to port 53 and be sandboxed by the system.
It runs as the user who owns the VMs, and starts and ends with that user's manager, user@UID.service.

The server answers untrusted clients, so it runs in a sandbox (systemd.exec(5)). Its children would be in the sandbox
too, and VirtualBox's VMs do not work there: VBoxHeadless, VirtualBoxVM and VBoxNetAdpCtl are setuid root ("Effective
UID is not root" with NoNewPrivileges), and VBoxSVC, which a reader starts if none runs, starts the VMs. So the server
starts no programs. It connects to a socket of systemd, which starts a worker outside the sandbox for each connection
(systemd.socket(5), Accept=yes; sources/supervisor.py). The worker has no network socket.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from vmdns.dns.escape import escape_text
from vmdns.host import elevation
from vmdns.host.plan import Plan, Setting
from vmdns.host.service_program import ServiceOwner, ServiceProgram
from vmdns.host.system_settings import Commands, SystemFile

_FOLDER = "/etc/systemd/system"
_RELOAD = ("systemctl", "daemon-reload")
_PROPERTIES = "LoadState,UnitFileState,ActiveState,MainPID,ActiveEnterTimestamp,Result,StatusText"
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4  # linux/prctl.h

# It may set no limits, so the unit does: each forwarded query takes a file. sched_setattr is for
# server/udp_linux.py alone.
_SERVER = """\
# by vmdns service install: starts vmdns when {shown} logs in
[Unit]
Description=DNS for the VMs of {described} (vmdns)
After=user@{uid}.service vmdns-beside-{name}.socket
Requires=vmdns-beside-{name}.socket
PartOf=user@{uid}.service
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=notify
User={user}
Environment=XDG_RUNTIME_DIR=/run/user/{uid}
Environment=VMDNS_BESIDE=/run/vmdns-beside-{uid}.sock
{environment}
ExecStart={command}
Restart=on-failure
RestartSec=500ms
TimeoutStartSec=120
TimeoutStopSec=15
WatchdogSec=60
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=-/run/user/{uid}
InaccessiblePaths=-/run/user/{uid}/bus -/run/user/{uid}/systemd
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
LimitNOFILE=8192
TasksMax=256

[Install]
WantedBy=user@{uid}.service
"""

# For this user alone, in a folder that is root's.
_SOCKET = """\
# by vmdns service install: where the vmdns of {shown} has VirtualBox read
[Unit]
Description=VirtualBox of {described}, for vmdns
PartOf=vmdns-{name}.service

[Socket]
ListenStream=/run/vmdns-beside-{uid}.sock
SocketUser={user}
SocketMode=0600
RemoveOnStop=yes
Accept=yes
MaxConnections=8
"""

# A VBoxSVC started from here must find what one from the desktop finds: sound, and the bus of the session.
_WORKER = """\
# by vmdns service install: reads VirtualBox for the vmdns of {shown}
[Unit]
Description=VirtualBox of {described}, read for vmdns
CollectMode=inactive-or-failed

[Service]
User={user}
Environment=XDG_RUNTIME_DIR=/run/user/{uid}
Environment=DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus
{environment}
ExecStart={worker}
StandardInput=socket
StandardOutput=socket
StandardError=journal
TimeoutStopSec=15
# VBoxSVC and VMs may run below this service. They outlive it, and are not to be in a sandbox.
KillMode=process
OOMPolicy=continue
PrivateTmp=no
"""


class UnitFile(SystemFile):
    """A unit file. A running unit is restarted when it changes; instances of a template end by themselves."""

    kind = "service-unit"
    after_end = (_RELOAD,)

    @property
    def after(self) -> Commands:  # type: ignore[override]
        unit = self.name.rpartition("/")[2]
        return (_RELOAD,) if "@." in unit else (_RELOAD, ("systemctl", "try-restart", unit))


class Enabled(Setting):
    """Whether the unit `name` starts by itself, and now; None where not."""

    kind = "service-enabled"

    def read(self) -> bool | None:
        return True if elevation.read_output("systemctl", "is-enabled", self.name).strip() == "enabled" else None

    def commands(self, value: bool | None) -> Sequence[Sequence[str]]:
        return [["systemctl", "enable" if value else "disable", "--now", self.name]]

    def describe(self, before: Any, after: bool | None) -> str:
        return f"{'start' if after else 'stop'} {self.name}, now and {'at each log-in' if after else 'for good'}"


SETTINGS = {one.kind: one for one in (UnitFile, Enabled)}


def check_system() -> None:
    """Raises OSError where there can be no service."""
    if not Path("/run/systemd/system").is_dir():
        raise OSError("this computer is not run by systemd; have your desktop start `vmdns run` when you log in")


def plan_service(program: ServiceProgram) -> Plan:
    """The unit files, and that the service is enabled."""
    units: list[tuple[Setting, Any]] = [
        (UnitFile(f"{_FOLDER}/{name}"), text) for name, text in unit_files(program).items()
    ]
    user = program.owner.name
    linger = f"`sudo loginctl enable-linger {user}` keeps it from start to shutdown"
    notes = [f"it ends when {user} has logged out; {linger}"]
    return [*units, (Enabled(service_name(user)), True)], notes


def read_status(owner: ServiceOwner) -> dict[str, Any]:
    """Whether the service is installed, enabled and running, since when (Unix seconds), and its last log lines."""
    unit = service_name(owner.name)
    shown = elevation.run(["systemctl", "show", "--timestamp=unix", f"--property={_PROPERTIES}", unit])
    log = elevation.read_output("journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=5", f"--unit={unit}")
    return {**parse_show(shown), "log": log.splitlines()}


def parse_show(text: str) -> dict[str, Any]:
    """The state of the service in the output of `systemctl show`; properties may be missing."""
    found = dict.fromkeys(_PROPERTIES.split(","), "")
    found |= {key: value for key, _, value in (line.partition("=") for line in text.splitlines()) if value}
    active, since = found["ActiveState"], found["ActiveEnterTimestamp"].removeprefix("@")
    running = active in ("active", "reloading")
    failed = f"it failed ({found['Result']})" if active == "failed" else ""
    starting = "it starts" if active in ("activating", "deactivating") else ""
    return {
        "installed": found["LoadState"] not in ("", "not-found"),
        "enabled": found["UnitFileState"] == "enabled",
        "running": running,
        "pid": int(found["MainPID"]) if running and found["MainPID"].isdecimal() else 0,
        "since": float(since) if running and since.isdecimal() else None,
        "detail": (found["StatusText"] if running else "") or failed or starting,
    }


def service_name(user: str) -> str:
    """vmdns-alice.service, with what a unit's name cannot have escaped as systemd-escape(1) does."""
    return f"vmdns-{_escape_name(user)}.service"


def _escape_name(user: str) -> str:
    return re.sub(r"[^A-Za-z0-9:_.-]", lambda one: "".join(f"\\x{byte:02x}" for byte in one[0].encode()), user)


def unit_files(program: ServiceProgram) -> dict[str, str]:
    """The unit files by their names: the template of what the socket starts, the socket, and the server."""
    user = program.owner.name
    name, shown = _escape_name(user), escape_text(user)
    fields = {
        "name": name,
        "shown": shown,
        "described": shown.replace("%", "%%"),
        "user": user if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", user) else program.owner.uid,
        "uid": program.owner.uid,
        "environment": "\n".join(f"Environment={_word(f'{key}={value}')}" for key, value in program.environ),
        "command": _command(program.command),
        "worker": _command((program.command[0], "-P", "-m", "vmdns.daemon.worker_service")),
    }
    files = {
        f"vmdns-beside-{name}@.service": _WORKER,
        f"vmdns-beside-{name}.socket": _SOCKET,
        service_name(user): _SERVER,
    }
    return {file: text.format_map(fields) for file, text in files.items()}


def _command(words: Iterable[str]) -> str:
    return " ".join(_word(one.replace("$", "$$")) for one in words)


def _word(word: str) -> str:
    """A word as unit files have it: quoted where need be, and % doubled."""
    shown = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    shown = re.sub(r"[\x00-\x1f\x7f]", lambda one: f"\\x{ord(one[0]):02x}", shown)
    return shown if re.fullmatch(r"[^\s'\"\\;#]+", word) and shown.isprintable() else f'"{shown}"'


class ServiceNotifier:
    """The socket in the environment, which is removed from there, so that children do not notify the manager.

    seconds is the watchdog interval (sd_watchdog_enabled(3)), 0 for none.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not hasattr(socket, "AF_UNIX") or address[:1] not in ("/", "@"):
            address = ""
        self.address = "\0" + address[1:] if address.startswith("@") else address
        watched = address and micros.isdecimal() and pid in ("", str(os.getpid()))
        self.seconds = int(micros) / 1e6 if watched else 0.0

    def ready(self, status: str) -> None:
        """Reports that vmdns answers queries; status is a line for the user."""
        self._send(f"READY=1\nSTATUS={escape_text(status)}")

    def alive(self) -> None:
        """Reports that vmdns still answers."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Reports that vmdns is ending on request."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self.address:
            return
        # An error must not keep vmdns from answering.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.sendto(text.encode(), self.address)


def drop_ambient_capabilities() -> None:
    """Empties the ambient set of this thread and of threads that it starts (Linux).

    The right to low ports comes as an ambient capability, which every child would inherit: the reader of VirtualBox,
    and through it VBoxSVC and the VMs. vmdns itself keeps the right.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
