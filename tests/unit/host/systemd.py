"""A systemd of its own: process 1 of namespaces, over a copy of this machine's files that goes with it. As root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.needs import no_mount_namespace

INIT = "/lib/systemd/systemd"
NEEDED = ("unshare", "nsenter", "pivot_root", "mount", "ip", "systemctl")
PATIENCE = 60.0

# All that is mounted is gone with the namespace. Written to is a layer in memory.
_BOOT = """
    set -eu
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$1"
    cd "$1"
    mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
    cd root
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
    mkdir -p run/lock dev/pts dev/shm
    for name in null zero full random urandom tty; do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    # Nothing that this machine starts by itself.
    rm -rf etc/systemd/system/*
    sh -eu -c "$2" sh
    ip link set lo up
    mkdir old
    pivot_root . old
    umount -l old
    export container=vmdns
    exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--net")


def missing() -> str:
    """Why no systemd can be started here; '' where one can."""
    if no_mount_namespace():
        return no_mount_namespace()
    lacking = [one for one in NEEDED if shutil.which(one) is None]
    if lacking or not Path(INIT).exists():
        return f"no {lacking[0] if lacking else INIT}"
    return ""


class System:
    """A systemd that runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a command there, as root; what it says."""
        done = subprocess.run(
            ["nsenter", "-t", f"{self._pid}", "-a", *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}\n{self.journal()}")
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until the condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {PATIENCE:g} s; its journal:\n{self.journal()}")
            time.sleep(0.05)

    def journal(self) -> str:
        """The last lines of its journal."""
        return self.run("journalctl", "--no-pager", "--lines=60", check=False)


@contextmanager
def booted(folder: Path, prepare: str, environ: Mapping[str, str]) -> Iterator[System]:
    """A systemd that has come up, in this folder. prepare is run by a shell in its root beforehand, with environ.

    Raises OSError where the system does not let it.
    """
    process = subprocess.Popen(
        ["unshare", *_NAMESPACES, "--kill-child", "sh", "-c", _BOOT, "sh", str(folder), prepare],
        env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield System(_process_1(process))
    finally:
        process.kill()
        process.communicate()


def _process_1(process: subprocess.Popen[bytes]) -> int:
    """The process id, outside, of the systemd that comes up."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise OSError(process.communicate()[1].decode(errors="replace").strip() or "it ended")
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                done = subprocess.run(
                    ["nsenter", "-t", pid, "-a", "systemctl", "is-system-running", "--wait"],
                    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
                )  # fmt: skip
                if done.stdout.strip() in ("running", "degraded"):
                    return int(pid)
        time.sleep(0.05)
    raise OSError(f"it does not come up within {PATIENCE:g} s")
