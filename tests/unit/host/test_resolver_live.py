"""`vmdns host` beside real resolvers: systemd-resolved in each version that is there, dnsmasq, NetworkManager, glibc.

Each scenario is a computer of its own in namespaces (box.py); this machine's files stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs_mount_namespace
from tests.unit.host.box import inside, roots
from tests.unit.host.resolver_scenarios import RESOLVED, SCENARIOS

pytestmark = [
    pytest.mark.slow,
    needs_mount_namespace,
    pytest.mark.skipif(not roots(), reason="no resolvers here: tests/unit/host/prepare gets them"),
]
NAMES = [one.__name__ for one in RESOLVED]


@pytest.mark.parametrize("root", roots())
@pytest.mark.parametrize("scenario", NAMES)
def test_beside_systemd_resolved(scenario: str, root: str) -> None:
    inside(scenario, root)


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one not in NAMES])
def test_beside_other_resolvers(scenario: str) -> None:
    if scenario == "network_manager" and not Path(roots()[0], "usr/sbin/NetworkManager").exists():
        pytest.skip("no NetworkManager")
    inside(scenario, roots()[0])
