"""The service name of a port-forward rule: the label before `_tcp` or `_udp` in its SRV record (RFC 2782)."""

from __future__ import annotations

import re

from vmdns.dns.name import to_label
from vmdns.state.facts import PortForward

# Service names of IANA's registry (RFC 6335), for the ports that people forward.
_BY_PORT = {
    21: "ftp", 22: "ssh", 23: "telnet", 25: "smtp", 53: "domain", 80: "http", 88: "kerberos", 110: "pop3", 143: "imap",
    389: "ldap", 443: "https", 445: "microsoft-ds", 636: "ldaps", 1433: "ms-sql-s", 1883: "mqtt", 3306: "mysql",
    3389: "ms-wbt-server", 5432: "postgresql", 5672: "amqp", 5900: "rfb", 5985: "wsman", 6379: "redis",
    8080: "http-alt", 27017: "mongodb",
}  # fmt: skip
# What people call those services in a rule's name.
_ALIASES = {"rdp": "ms-wbt-server", "vnc": "rfb", "dns": "domain", "postgres": "postgresql", "mssql": "ms-sql-s"}
_KNOWN = frozenset(_BY_PORT.values())
MAX_SERVICE = 15  # RFC 6335 section 5.1


def find_service_name(rule: PortForward) -> str:
    """The service of a rule: its name where that is one, else the one of the guest's port, else the rule's name."""
    named = to_label(rule.name)
    named = _ALIASES.get(named, named)
    if named in _KNOWN:
        return named
    if rule.guest_port in _BY_PORT:
        return _BY_PORT[rule.guest_port]
    # A name that VirtualBox's window made up ("Rule 1") still distinguishes two rules.
    short = re.sub(r"[^a-z0-9-]", "", named)[:MAX_SERVICE].strip("-")
    return short or f"port-{rule.guest_port}"
