"""What some tests need of the machine. Each thing is tried once; the reason says why it cannot be had.

A container's root has no right to make namespaces, and an ordinary user may have it: who one is says little.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

_NETWORK = "ip link set lo up && ip link add v0 type veth peer name v1"
_MOUNT = "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp"


@cache
def no_network_namespace() -> str:
    """Why this user cannot make a network namespace with a link in it; '' if they can."""
    return _tried("network namespaces", ("ip",), "unshare", "--net", "sh", "-ec", _NETWORK)


@cache
def no_mount_namespace() -> str:
    """The same for a mount namespace with a file system of its own, and a network namespace beside it."""
    return _tried("mount namespaces", ("ip", "mount"), "unshare", "--net", "--mount", "sh", "-ec", _MOUNT)


@cache
def no_named_namespace() -> str:
    """The same for a network namespace with a name, as ip-netns(8) makes them."""
    name = f"vmdns-try-{os.getpid()}"
    return _tried("named network namespaces", ("ip",), "sh", "-ec", f"ip netns add {name}; ip netns delete {name}")


def _tried(what: str, tools: tuple[str, ...], *command: str) -> str:
    if sys.platform != "linux":
        return f"{what} are Linux's"
    for tool in (*tools, "unshare"):
        if shutil.which(tool) is None:
            return f"{what} need the program {tool}"
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    return "" if done.returncode == 0 else f"this user may not make {what} here"


@cache
def no_links() -> str:
    """Why this user cannot make symbolic links; '' if they can. Windows wants a right, and Wine only pretends."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        with contextlib.suppress(OSError):
            link.symlink_to("target")
        return "" if link.is_symlink() else "no symbolic links can be made here"


needs_network_namespace = pytest.mark.skipif(bool(no_network_namespace()), reason=no_network_namespace())
needs_mount_namespace = pytest.mark.skipif(bool(no_mount_namespace()), reason=no_mount_namespace())
needs_links = pytest.mark.skipif(bool(no_links()), reason=no_links())
