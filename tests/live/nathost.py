"""natlab's host with an /etc of its own, so that `vmdns host --whole` may change it; VirtualBox runs there too."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.live import natlab
from tests.live.lab import run, until

# natlab mounts a file over /etc/resolv.conf, which could not become a link.
BOOT = """
    umount /etc/resolv.conf
    mount -t tmpfs tmpfs /mnt
    cp -a /etc /mnt/etc
    mount --bind /mnt/etc /etc
    printf 'nameserver 192.0.2.1\\nsearch corp.test\\n' >/etc/resolv.conf
    echo $$
    exec cat
"""


class Host:
    """The mount namespace of a process on natlab's host."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
        words = [one for one in environ if one.partition("=")[0] not in ("", "PWD", "_")]
        # Prefix of a command that is to run there.
        self.within = ["nsenter", "-t", str(pid), "-n", "-m", "-r", "-w", "env", "-i", *words, natlab.STATE]

    def run(self, *command: str) -> str:
        """What a command on the host prints."""
        return run(*self.within, *command)

    def vmdns(self, *arguments: str) -> str:
        return self.run(natlab.PYTHON, "-m", "vmdns", *arguments)

    @property
    def resolv_conf(self) -> str:
        return self.run("cat", "/etc/resolv.conf")


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """natlab whose VirtualBox sees this host's /etc; its network is stopped."""
    with natlab.up():
        natlab.stop_network()
        until(lambda: not natlab.processes(natlab.HOME, program="VBoxSVC"), "VirtualBox has ended")
        boot = subprocess.Popen(
            [natlab.COMMAND, "rig", "sh", "-euc", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert boot.stdout is not None
        made = Host(int(boot.stdout.readline()))
        try:
            yield made
        finally:
            boot.communicate(timeout=30)  # its end, by that of its input
