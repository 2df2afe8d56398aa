"""Calls VBoxManage with a UTF-8 locale, a timeout and bounded output, and parses what it prints.

Most of its output is not escaped: names may contain quotes and line breaks, so each pattern is anchored on what
VBoxManage writes around a value. Labels may be translated (7.0 and later have Russian), so patterns rely on the order
of labels and on words that are never translated (VBoxManageInfo.cpp, VBoxManageList.cpp, VBoxManageGuestProp.cpp).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Interface
from itertools import zip_longest
from pathlib import Path

from vmdns.files import NO_WINDOW, decode_text
from vmdns.sources.virtualbox_values import parse_nat_rule, parse_timestamp, rule_sort_key
from vmdns.state.facts import Adapter, HostInterface, Machine, Network, PortForward

# VBoxManage 7.2 hangs in about one of a hundred calls; the next call works.
LIMITS_SECONDS = (4.0, 10.0)
MAX_BYTES = 16 * 1024 * 1024


class VBoxManageError(Exception):
    """VBoxManage failed. `code` is VirtualBox's result code, such as 0x80bb0001; 0 if it printed none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class _VBoxManageTimeout(VBoxManageError):
    """It did not end in time, and was killed."""


class VBoxManage:
    """Runs `program` with arguments, one process at a time.

    limits: timeouts in seconds of the first and the second try of a call. ended is called after each try; spent: CPU
    seconds of all calls.
    """

    def __init__(
        self,
        program: Path,
        environ: Mapping[str, str],
        limits: tuple[float, float] = LIMITS_SECONDS,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._program = program
        self._windows = program.suffix.lower() == ".exe"  # also in WSL
        self._limits = limits
        self._ended = ended
        self.spent = 0.0
        self._environ = dict(environ)
        if sys.platform != "win32":
            # In any other locale VBoxManage silently truncates its output at the first non-ASCII letter.
            self._environ["LC_ALL"] = choose_locale(self._locales())

    def __call__(self, *arguments: str) -> str:
        """Returns its standard output. Raises `VBoxManageError` when it fails, hangs twice, or prints too much."""
        command = [str(self._program), *arguments]
        before = _cpu_seconds()
        try:
            try:
                output = self._run(command, self._limits[0])
            except _VBoxManageTimeout:
                self._ended()
                output = self._run(command, self._limits[1])
        finally:
            self._ended()
            self.spent += _cpu_seconds() - before
        return decode_text(output.replace(b"\r\n", b"\n") if self._windows else output, sys.platform)

    def _run(self, command: list[str], limit: float) -> bytes:
        # Files instead of pipes: a VBoxSVC that VBoxManage starts may inherit pipes and keep them open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                status = subprocess.run(
                    command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    timeout=limit,
                    check=False,
                    start_new_session=True,  # Ctrl-C in a terminal is for vmdns only
                    creationflags=NO_WINDOW,
                ).returncode
            except OSError as error:
                raise VBoxManageError(f"{command[0]} cannot be run ({error.strerror})") from None
            except subprocess.TimeoutExpired:
                raise _VBoxManageTimeout(f"{' '.join(command[1:3])}: no answer in {limit:g} s") from None
            out.seek(0)
            err.seek(0)
            if status:
                raise _failure(command, err.read(65536), status)
            output = out.read(MAX_BYTES + 1)
            if len(output) > MAX_BYTES:
                raise VBoxManageError(f"{' '.join(command[:3])}: more than {MAX_BYTES} bytes of output")
            return output

    def _locales(self) -> list[str]:
        try:
            return self._run(["locale", "-a"], self._limits[0]).decode("ascii", "replace").split()
        except VBoxManageError:
            return []


def choose_locale(available: Iterable[str], platform: str = sys.platform) -> str:
    """The UTF-8 locale for VBoxManage, of those that `locale -a` lists: C if possible, which translates nothing."""
    names = {re.sub("[-.]", "", name).lower(): name for name in sorted(available)}
    for wanted in ("cutf8", "en_usutf8"):
        if wanted in names:
            return names[wanted]
    others = (name for plain, name in names.items() if plain.endswith("utf8"))
    return next(others, "en_US.UTF-8" if platform == "darwin" else "C.UTF-8")


def _cpu_seconds() -> float:
    """CPU seconds of VBoxManage and VBoxSVC, which takes about as much; wall time on Windows."""
    if sys.platform == "win32":
        return time.perf_counter()
    import resource  # POSIX only

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 2 * (usage.ru_utime + usage.ru_stime)


def _failure(command: list[str], errors: bytes, status: int) -> VBoxManageError:
    text = decode_text(errors, sys.platform)
    line = next((line for line in text.split("\n") if "error:" in line), "")
    code = re.search(r"\(0x([0-9a-fA-F]{8})\)", text)
    why = line.partition("error:")[2].strip() or f"exit status {status}"
    return VBoxManageError(f"{' '.join(command[1:3])}: {why}"[:300], int(code[1], 16) if code else 0)


INACCESSIBLE = "<inaccessible>"

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IP = r"[0-9]+(?:\.[0-9]+){3}"
_LABEL = r"[^\n:]+: +"

# machineStateToName: the short word of --machinereadable, and the long one of --long where it differs.
_STATES = {
    "poweroff": "PoweredOff", "powered off": "PoweredOff", "saved": "Saved", "teleported": "Teleported",
    "aborted": "Aborted", "aborted-saved": "AbortedSaved", "running": "Running", "paused": "Paused",
    "gurumeditation": "Stuck", "guru meditation": "Stuck", "teleporting": "Teleporting",
    "livesnapshotting": "LiveSnapshotting", "live snapshotting": "LiveSnapshotting", "starting": "Starting",
    "stopping": "Stopping", "saving": "Saving", "restoring": "Restoring",
    "teleportingpausedvm": "TeleportingPausedVM", "teleporting paused vm": "TeleportingPausedVM",
    "teleportingin": "TeleportingIn", "teleporting (incoming)": "TeleportingIn",
    "deletingsnapshotlive": "DeletingSnapshotOnline", "deleting snapshot live": "DeletingSnapshotOnline",
    "deletingsnapshotlivepaused": "DeletingSnapshotPaused",
    "deleting snapshot live paused": "DeletingSnapshotPaused",
    "onlinesnapshotting": "OnlineSnapshotting", "online snapshotting": "OnlineSnapshotting",
    "restoringsnapshot": "RestoringSnapshot", "restoring snapshot": "RestoringSnapshot",
    "deletingsnapshot": "DeletingSnapshot", "deleting snapshot": "DeletingSnapshot", "settingup": "SettingUp",
    "setting up": "SettingUp", "snapshotting": "Snapshotting", "offline snapshotting": "Snapshotting",
}  # fmt: skip
_KINDS = {
    "nat": "nat", "natnetwork": "natnetwork", "bridged": "bridged", "intnet": "intnet", "hostonly": "hostonly",
    "hostonlynetwork": "hostonly", "Generic": "generic", "cloudnetwork": "cloud",
}  # fmt: skip
_NAMED = frozenset(("natnetwork", "bridged", "intnet", "hostonly", "generic"))

_VM = re.compile(rf'^"(.*?)" \{{({_UUID})\}}$', re.MULTILINE | re.DOTALL)
_NAME = re.compile(r'\Aname="((?:[^"\\]|\\.)*)"\n', re.DOTALL)
_ADAPTER = re.compile(
    r"^(?:(?:natnet|nat-network|bridgeadapter|intnet|hostonlyadapter|hostonly-network|cloud-network|generic)"
    r'[0-9]+="(?P<name>.*?)"\n)?'
    r'macaddress(?P<number>[0-9]+)="(?P<mac>[0-9A-Fa-f]{12})"\n'
    r'cableconnected(?P=number)="(?P<cable>on|off)"\n'
    r'nic(?P=number)="(?P<kind>[^"\n]*)"$',
    re.MULTILINE | re.DOTALL,
)
_FORWARD = re.compile(r'^Forwarding\([0-9]+\)="(.*?)"$', re.MULTILINE | re.DOTALL)
_PROPERTY = re.compile(
    r"^[^\n:]{1,40}: (/[^\n]*?), [^\n:]{1,40}: (.*?), [^\n:]{1,40}: (-?[0-9]{1,19}), [^\n:]{1,40}: [A-Z, ]*\n"
    r"(?=[^\n:]{1,40}: /|\Z)",
    re.MULTILINE | re.DOTALL,
)
_EXTRA = re.compile(
    r"^[^\n:]{1,40}: ([^\n]*?), [^\n:]{1,40}: (.*?)\n(?=[^\n:]{1,40}: [^\n]*?, [^\n:]{1,40}: |\Z)",
    re.MULTILINE | re.DOTALL,
)
_INTERFACE = re.compile(
    rf"{_LABEL}(?P<name>.*?)\nGUID: [^\n]*\nDHCP: [^\n]*\n{_LABEL}(?P<address>{_IP})\n{_LABEL}(?P<mask>{_IP})\n",
    re.DOTALL,
)


def parse_vms(text: str) -> dict[str, str]:
    """`list vms` or `list runningvms`: UUID -> name, "<inaccessible>" if VirtualBox cannot read the VM.

    A name that looks like two lines of this list also yields a UUID of no VM.
    """
    return {match[2]: match[1] for match in _VM.finditer(text)}


def parse_machine(text: str) -> Machine:
    """`showvminfo UUID --machinereadable`, without names and reports. Raises ValueError on anything else.

    VBoxManage up to 7.2 prints rules of plain NAT as a format string: a rule name with a percent sign is printed wrong
    or crashes VBoxManage.
    """
    name = _NAME.match(text)
    uuid = re.search(rf'^UUID="({_UUID})"$', text, re.MULTILINE)
    groups = re.search(r'^groups="(.*)"$', text, re.MULTILINE)
    state = re.search(r'^VMState="([^"\n]*)"$', text, re.MULTILINE)
    changed = re.search(r'^VMStateChangeTime="([^"\n]*)"$', text, re.MULTILINE)
    if name is None or uuid is None or state is None:
        raise ValueError(f"not a VM in machine readable form: {text[:100]!r}")
    return Machine(
        uuid=uuid[1],
        name=re.sub(r"\\(.)", r"\1", name[1], flags=re.DOTALL),
        state=_STATES.get(state[1], ""),
        groups=tuple(groups[1].split(",")) if groups else ("/",),
        adapters=tuple(sorted(_adapters(text), key=lambda adapter: adapter.slot)),
        state_changed=parse_timestamp(changed[1]) if changed else 0.0,
    )


def _adapters(text: str) -> Iterator[Adapter]:
    found = list(_ADAPTER.finditer(text))
    for match, after in zip_longest(found, found[1:]):
        kind = _KINDS.get(match["kind"], "null")
        rules: list[PortForward] = []
        for rule in _FORWARD.findall(text, match.end(), after.start() if after else len(text)) if kind == "nat" else ():
            with suppress(ValueError):  # rules in an unknown form are left out
                rules.append(parse_nat_rule(rule))
        yield Adapter(
            slot=int(match["number"]) - 1,
            mac=match["mac"].lower(),
            network=Network(kind, (match["name"] or "") if kind in _NAMED else ""),
            cable=match["cable"] == "on",
            forwards=tuple(sorted(rules, key=rule_sort_key)),
        )


def parse_states(text: str) -> dict[str, tuple[str, float]]:
    """`list vms --long`: UUID -> state and when it began, for VMs in a known state.

    The time is in whole Unix seconds.
    """
    found: dict[str, tuple[str, float]] = {}
    uuid = ""
    for line in text.split("\n"):
        if match := re.fullmatch(rf"UUID: +({_UUID})", line):
            uuid = match[1]
        elif uuid and (match := re.fullmatch(r"State: +(.+) \(since ([^()]*)\)", line)):
            if match[1] in _STATES:
                found[uuid] = _STATES[match[1]], parse_timestamp(match[2])
            uuid = ""
    return found


def parse_properties(text: str) -> dict[str, tuple[str, float]]:
    """`guestproperty enumerate --old-format`: name -> value, time in Unix seconds (6.x has only this format).

    The other format of 7.x truncates the time to milliseconds. Values are not escaped: a guest may make one value look
    like several properties, all of which it could have set anyway.
    """
    return {match[1]: (match[2], int(match[3]) / 1e9) for match in _PROPERTY.finditer(text)}


def parse_extra_data(text: str) -> dict[str, str]:
    """`getextradata UUID enumerate`: key -> value."""
    return {match[1]: match[2] for match in _EXTRA.finditer(text)}


def parse_host_interfaces(text: str) -> list[HostInterface]:
    """`list hostonlyifs`: those with an IPv4 address."""
    found = []
    for match in filter(None, map(_INTERFACE.match, text.split("\n\n"))):
        try:
            prefix = IPv4Interface(f"{match['address']}/{match['mask']}")
        except ValueError:
            continue
        if int(prefix.ip):
            found.append(HostInterface(match["name"], prefix.with_prefixlen))
    return found
