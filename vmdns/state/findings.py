"""What is wrong, with its remedy: problems of a VM, and the findings of `vmdns doctor` about the server."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_MAX_NAMES = 8
# Names that networks use for themselves: below these, the domain is a single label.
_LOCAL = frozenset({"lan", "test", "home", "corp", "internal", "intranet", "private", "localdomain", "localnet"})
# Below these, countries with a domain of two letters register names for anybody (co.uk, com.au).
_REGISTRIES = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "ltd", "mil", "ne", "net", "or", "org"})

# Why this computer itself refuses to send packets to guests, by sys.platform: the number of the error, and a sentence.
# macOS 15 and newer: local network privacy, of which programs of root, Terminal and SSH are free (developer.apple.com/
# documentation/technotes/tn3179-understanding-local-network-privacy). Windows: WSAEACCES.
_FIREWALL = (
    "this computer refuses to send responses to guests ({}): a firewall or the kill switch of a VPN blocks local "
    "networks; allow the networks of the guests there"
)
_REFUSALS = {
    "linux": (errno.EPERM, _FIREWALL.format("Operation not permitted")),
    "win32": (errno.EACCES, _FIREWALL.format("WSAEACCES")),
    "darwin": (
        errno.EHOSTUNREACH,
        "macOS does not let this Python send to the local network, so guests get no answers; allow Python under System "
        "Settings > Privacy & Security > Local Network, or run vmdns in Terminal",
    ),
}

Status = Mapping[str, object]


class Problem(NamedTuple):
    """What keeps a VM from an address or a name. text: what is wrong and why, a sentence. remedy: what to do, in words;
    command: the line to type on this computer for it. Both are empty where there is nothing to do."""

    text: str
    remedy: str = ""
    command: str = ""

    @property
    def advice(self) -> str:
        """The remedy, with the command."""
        return ": ".join(part for part in (self.remedy, self.command) if part)

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}" if self.advice else self.text


class Finding(NamedTuple):
    """One thing that was looked at: its level, one sentence, and the command that mends it where there is one."""

    subject: str
    level: str
    text: str
    command: str = ""


def join_words(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; each part once."""
    *first, last = dict.fromkeys(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def quote_for_shell(text: str) -> str:
    """A word of a command line, quoted where it must be; the same in all shells."""
    plain = text and all(char.isalnum() or char in "-_./" for char in text)
    return text if plain else '"' + text.replace('"', '\\"') + '"'


def has_no_problem(findings: Iterable[Finding]) -> bool:
    """Whether nothing is a problem; a warning is none."""
    return all(one.level != PROBLEM for one in findings)


def summarize_findings(findings: Iterable[Finding]) -> str:
    """`All well`, or how many problems and warnings there are."""
    levels = [one.level for one in findings]
    counts = [(levels.count(level), level) for level in (PROBLEM, WARNING)]
    return ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count) or "All well"


def explain_refusal(error: OSError | None, platform: str) -> str:
    """Why this computer itself refused to send a packet to a client; '' for any other error."""
    number, text = _REFUSALS.get(platform, (0, ""))
    return text if error is not None and error.errno == number else ""


# -- the running server ---------------------------------------------------------------------------------------


def list_of(status: Status | None, key: str) -> Sequence[Mapping[str, object]]:
    """A list of the status."""
    found = (status or {}).get(key)
    return found if isinstance(found, list) else []


def _texts(status: Status, key: str) -> list[str]:
    return [str(one) for one in list_of(status, key)]


def find_server_findings(status: Status | None, simulated: bool) -> Iterator[Finding]:
    """The findings from the status of the running vmdns; None where none runs."""
    if status is None:
        yield Finding("vmdns", PROBLEM, "no vmdns runs, so no names are answered", "vmdns run")
        return
    yield Finding("vmdns", OK, f"vmdns {status['version']} runs")
    if status.get("config_error"):
        text = f"{status['config_error']}; the configuration before it stays in force"
        yield Finding("configuration", PROBLEM, text)
    for fault in _texts(status, "faults"):
        yield Finding("vmdns", PROBLEM, fault)
    for source in list_of(status, "sources"):
        if source["name"] == "hosts" and source["state"] == "failing":
            yield Finding("hosts file", WARNING, str(source["detail"]))
    if status.get("refusal"):
        yield Finding("local network", PROBLEM, str(status["refusal"]))
    yield from _check_listeners(status, simulated)
    box = status.get("virtualbox")
    if isinstance(box, Mapping) and box["state"] == "ok":
        how = "simulated" if box["reader"] == "simulation" else f"read through {box['reader']}"
        yield Finding("VirtualBox", OK, f"{box['version']}, {how}")
    elif isinstance(box, Mapping):
        detail = str(box["detail"]).removeprefix("VirtualBox").lstrip(": ")
        yield Finding("VirtualBox", PROBLEM, detail or "is not read")
    yield from _check_upstreams(status)
    yield from _check_forwarding(status)


def _check_listeners(status: Status, simulated: bool) -> Iterator[Finding]:
    addresses: dict[tuple[str, str, str], list[str]] = {}
    answered = []
    for one in list_of(status, "listeners"):
        where, detail = str(one["address"]), str(one["detail"])
        if one["state"] == "listening" and (one["port"] == 53 or simulated):
            answered.append(where)
            continue
        # The user chose another port.
        key = WARNING, f"is answered at port {one['port']} only, which guests and most systems never ask", ""
        if detail:
            text, _, remedy = detail.removeprefix(f"{where} ").partition(": ")
            # What comes before the command is the reason, or what changes less than the command.
            before, _, command = remedy.partition("`")
            before = before.rstrip("; (")
            key = PROBLEM, f"{text}: {before}" if before else text, command.partition("`")[0]
        addresses.setdefault(key, []).append(where)
    for (level, text, command), where_all in addresses.items():
        yield Finding("port 53", level, f"{join_words(where_all)} {text}", command)
    if answered and not simulated:
        yield Finding("port 53", OK, f"answered at {', '.join(sorted(set(answered)))}")


def _check_upstreams(status: Status) -> Iterator[Finding]:
    servers = list_of(status, "upstreams")
    if not servers:
        text = "none is known, so names outside of the VMs' zones are not answered; name one:"
        yield Finding("upstreams", PROBLEM, text, "vmdns run --upstream ADDRESS")
    silent = [one for one in servers if one.get("silent") or (one["failed"] and not one["answered"])]
    for one in silent:
        # Another one answers in its place.
        level = PROBLEM if len(silent) == len(servers) else WARNING
        yield Finding("upstream", level, f"{one['address']}: {one['error'] or 'does not answer'}")
    for sentence in _texts(status, "left_out"):
        yield Finding("upstream", WARNING, sentence)


def _check_forwarding(status: Status) -> Iterator[Finding]:
    """Domains below our zones that are forwarded, and answers withheld as DNS rebinding."""
    servers: dict[str, list[str]] = {}
    for one in list_of(status, "upstreams"):
        for domain in _texts(one, "domains"):
            servers.setdefault(domain, []).append(str(one["address"]))
    for domain, addresses in servers.items():
        if any(domain.endswith(f".{zone}") for zone in _texts(status, "zones")):
            text = f"lies below a zone of vmdns; names in it that no VM has are forwarded to {join_words(addresses)}"
            yield Finding(domain, OK, text)
    forwarding = status.get("forwarding")
    names = _texts(forwarding, "held_back") if isinstance(forwarding, Mapping) else []
    if names:
        domains = list(dict.fromkeys(map(domain_to_allow, reversed(names))))[:_MAX_NAMES]
        shown = ", ".join(f'"{domain}"' for domain in domains)
        text = (
            f"answers for {join_words(names[-_MAX_NAMES:])} contain private addresses and were withheld (DNS "
            f"rebinding); if these names are yours, write in vmdns.toml: private_domains = [{shown}]"
        )
        yield Finding("private addresses", WARNING, text)


def domain_to_allow(name: str) -> str:
    """The domain that a user would name to allow private addresses for this name, in `private_domains`."""
    parts = name.rstrip(".").split(".")
    if len(parts) > 2 or parts[-1] in _LOCAL:
        parts = parts[1:] or parts
        while len(parts) > 2 and parts[0].isdigit():  # 10.0.0.1.nip.io
            parts = parts[1:]
    if len(parts) == 2 and parts[0] in _REGISTRIES and len(parts[1]) == 2:
        return name.rstrip(".")  # not the names of everybody there
    return ".".join(parts)
