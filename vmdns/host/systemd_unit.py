"""Linux: vmdns as a system service of systemd: its unit files, its settings and its state (systemctl(1)).

A system service and not a user service, because only that can get the right to port 53 and be sandboxed by the system.
It runs as the user who owns the VMs, and starts and ends with that user's manager, user@UID.service.

The server answers untrusted clients, so it runs in a sandbox (systemd.exec(5)). Its children would be in the sandbox
too, and VirtualBox's VMs do not work there: VBoxHeadless, VirtualBoxVM and VBoxNetAdpCtl are setuid root ("Effective
UID is not root" with NoNewPrivileges), and VBoxSVC, which a reader starts if none runs, starts the VMs. So the server
starts no programs. It connects to a socket of systemd, which starts a worker outside the sandbox for each connection
(systemd.socket(5), Accept=yes; sources/worker_socket.py). The worker has no network socket.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.dns.escape import escape_text
from vmdns.host import elevation
from vmdns.host.program import ServiceProgram
from vmdns.host.system_file import SystemFile

_PROPERTIES = "LoadState,UnitFileState,ActiveState,MainPID,ActiveEnterTimestamp,Result,StatusText,NRestarts"
_TIMEOUT = 20.0


def unit_file(path: str) -> SystemFile:
    """The setting of a unit file. A running unit is restarted when it changes; instances of a template end by
    themselves."""
    unit = path.rpartition("/")[2]
    reload = ("systemctl", "daemon-reload")
    again = () if "@." in unit else (("systemctl", "try-restart", unit),)
    return SystemFile("service-unit", path, after=(reload, *again), after_end=(reload,))


@dataclass(frozen=True, slots=True)
class Enabled:
    """A `Setting` (plan.py): whether the unit `name` starts by itself, and now; None where not."""

    name: str
    kind: str = field(default="service-enabled", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> bool | None:
        return True if show(self.name)["UnitFileState"] == "enabled" else None

    def write(self, value: bool | None) -> None:
        elevation.run(self._command(value), elevated=True)

    def describe(self, before: Any, after: bool | None) -> str:
        return f"{'start' if after else 'stop'} {self.name}, now and {'at each log-in' if after else 'for good'}"

    def commands(self, before: Any, after: bool | None) -> Sequence[str]:
        return [elevation.format_command(self._command(after), elevated=True)]

    def _command(self, value: bool | None) -> list[str]:
        return ["systemctl", "enable" if value else "disable", "--now", self.name]


def show(unit: str) -> dict[str, str]:
    """Properties of a unit from systemctl; empty texts if it does not exist. Raises OSError."""
    done = _run("systemctl", "show", "--timestamp=unix", f"--property={_PROPERTIES}", unit)
    return parse_show(done)


def parse_show(text: str) -> dict[str, str]:
    """Parses the output of `systemctl show`; missing properties are empty."""
    found = dict.fromkeys(_PROPERTIES.split(","), "")
    return found | {key: value for key, _, value in (line.partition("=") for line in text.splitlines()) if value}


def status(unit: str) -> dict[str, Any]:
    """Whether the service is installed, enabled and running, since when (Unix seconds), and its last log lines."""
    found = show(unit)
    return {**state(found), "log": last_lines(unit)}


def state(found: dict[str, str]) -> dict[str, Any]:
    """The state of the service from the properties of its unit."""
    running = found["ActiveState"] in ("active", "reloading")
    since = found["ActiveEnterTimestamp"].removeprefix("@")
    failed = f"it failed ({found['Result']})" if found["ActiveState"] == "failed" else ""
    starting = "it starts" if found["ActiveState"] in ("activating", "deactivating") else ""
    return {
        "installed": found["LoadState"] not in ("", "not-found"),
        "enabled": found["UnitFileState"] == "enabled",
        "running": running,
        "pid": int(found["MainPID"]) if running and found["MainPID"].isdecimal() else 0,
        "since": float(since) if running and since.isdecimal() else None,
        "detail": (found["StatusText"] if running else "") or failed or starting,
    }


def last_lines(unit: str, count: int = 5) -> list[str]:
    """The last log lines, if this user may read them."""
    try:
        text = _run("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={count}", f"--unit={unit}")
    except OSError:
        return []
    return text.splitlines()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise OSError(f"{command[0]} cannot be run ({error})") from None
    return done.stdout.decode(errors="replace")


FOLDER = "/etc/systemd/system"
WATCHDOG_SECONDS = 60
# setrlimit is not among the allowed calls, so the unit sets what vmdns needs: each forwarded query takes one.
_OPEN_FILES = 8192

# sched_setattr is for server/scheduling_linux.py alone.
_SANDBOX = """\
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


def worker_name(user: str) -> str:
    """The template of what is started for each connection to the socket."""
    return f"vmdns-beside-{_escaped(user)}@.service"


def _escaped(user: str) -> str:
    return "".join(
        char if re.match(r"[A-Za-z0-9:_.-]", char) else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in user
    )


def server_unit(program: ServiceProgram) -> str:
    """The unit of the server."""
    owner = program.owner
    manager, runtime = f"user@{owner.uid}.service", f"/run/user/{owner.uid}"
    environ = [("XDG_RUNTIME_DIR", runtime), ("VMDNS_BESIDE", _socket_path(program)), *program.environ]
    confined = _SANDBOX.format(runtime=runtime, files=_OPEN_FILES).splitlines()
    lines = [
        f"# by vmdns service install: starts vmdns when {escape_text(owner.name)} logs in",
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


def socket_unit(program: ServiceProgram) -> str:
    """The unit of the socket: for this user alone, in a folder that is root's."""
    lines = [
        f"# by vmdns service install: where the vmdns of {escape_text(program.owner.name)} has VirtualBox read",
        "[Unit]",
        f"Description=VirtualBox of {_described(program)}, for vmdns",
        f"PartOf={unit_name(program.owner.name)}",
        "",
        "[Socket]",
        f"ListenStream={_socket_path(program)}",
        f"SocketUser={_user(program)}",
        "SocketMode=0600",
        "RemoveOnStop=yes",
        "Accept=yes",
        "MaxConnections=8",
        "",
    ]
    return "\n".join(lines)


def worker_unit(program: ServiceProgram) -> str:
    """The unit of what the socket starts.

    VBoxSVC and VMs may run below it, and outlive it: so nothing confines it, and nothing but itself is ended with it.
    """
    owner = program.owner
    runtime = f"/run/user/{owner.uid}"
    # A VBoxSVC started from here must find what one from the desktop finds: sound, and the bus of the session.
    environ = [("XDG_RUNTIME_DIR", runtime), ("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus"), *program.environ]
    lines = [
        f"# by vmdns service install: reads VirtualBox for the vmdns of {escape_text(owner.name)}",
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


def _socket_path(program: ServiceProgram) -> str:
    return f"/run/vmdns-beside-{program.owner.uid}.sock"


def _user(program: ServiceProgram) -> str:
    name = program.owner.name
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) else str(program.owner.uid)


def _described(program: ServiceProgram) -> str:
    return escape_text(program.owner.name).replace("%", "%%")


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
