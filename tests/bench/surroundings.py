"""A network namespace for a benchmark: loopback, vboxnet0 with the host's address, and a LAN where nobody answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.world import LAN, LAN_PREFIX, LINK, PREFIX

_MARK = "VMDNS_BENCH_INSIDE"


def run(main: Callable[[Path], int]) -> int:
    """Starts this program anew in such a namespace, then calls `main` there with a folder that is removed after it."""
    if os.environ.get(_MARK) != "1":
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", *user, "--net", "--", sys.executable, *sys.argv]
        return subprocess.run(command, env={**os.environ, _MARK: "1"}, check=False).returncode
    for words in (
        "link set lo up",
        f"link add {LINK} type veth peer name peer-{LINK}",
        f"addr add {PREFIX} dev {LINK}",
        f"link set {LINK} up",
        f"link set peer-{LINK} up",
        f"link add {LAN} type veth peer name peer-{LAN}",
        f"addr add {LAN_PREFIX} dev {LAN}",
        f"link set {LAN} up",
        f"link set peer-{LAN} up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    with tempfile.TemporaryDirectory(prefix="vmdns-bench-") as folder:
        return main(Path(folder))
