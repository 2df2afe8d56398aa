"""VirtualBox's two ways of writing a port-forward rule."""

from __future__ import annotations

import re

from vmdns.state.facts import PortForward

_PROTOCOLS = {"0": "udp", "1": "tcp", "udp": "udp", "tcp": "tcp"}
_RULE = re.compile(r"(.*):(tcp|udp):\[(.*?)\]:([0-9]+):\[(.*?)\]:([0-9]+)", re.DOTALL)


def parse_nat_rule(text: str) -> PortForward:
    """A rule of plain NAT: name,protocol,host address,host port,guest address,guest port.

    The protocol is 0 (udp) or 1 (tcp) in `INATEngine.redirects`, a word where VBoxManage shows it.
    Raises ValueError on anything else.
    """
    name, protocol, host, host_port, guest, guest_port = text.rsplit(",", 5)
    if protocol not in _PROTOCOLS:
        raise ValueError(f"no such protocol: {protocol!r}")
    return PortForward(name, _PROTOCOLS[protocol], host, int(host_port), guest, int(guest_port))


def parse_network_rule(text: str) -> PortForward:
    """A rule of a NAT Network (`INATNetwork.portForwardRules4`, the same in VBoxManage).

    The form is name:protocol:[host address]:host port:[guest address]:guest port. Raises ValueError on anything else.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(f"no rule of a NAT Network: {text!r}")
    name, protocol, host, host_port, guest, guest_port = match.groups()
    return PortForward(name, protocol, host, int(host_port), guest, int(guest_port))


def rule_sort_key(rule: PortForward) -> tuple[str, int, str, str]:
    """The key by which both readers sort rules, so that equal worlds compare equal."""
    return rule.protocol, rule.host_port, rule.host_address, rule.name
