"""What vmdns writes to disk, when it is killed meanwhile, when two write at once, and when the disk is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_mount_namespace
from vmdns import files
from vmdns.host.plan import Journal, JournalEntry

ROOT = Path(__file__).resolve().parents[3]
posix = pytest.mark.skipif(os.name != "posix", reason="a process is killed otherwise there")
STEPS = ("tempfile.mkstemp", "os.fsync", "os.replace")

# Kills itself with SIGKILL right before or after one of the steps of writing.
_DIES = """
import os, signal, sys, tempfile
from pathlib import Path
step, when, file = sys.argv[1:]
module, name = {"tempfile": tempfile, "os": os}[step.split(".")[0]], step.split(".")[1]
real = getattr(module, name)
def dies(*given, **more):
    found = real(*given, **more) if when == "after" else None
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, dies)
from vmdns.host.plan import Journal, JournalEntry
Journal(Path(file)).put(JournalEntry("wire", "address", "two", None, "b"))
"""


def run(*words: str, code: str = _DIES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def entry(name: str) -> JournalEntry:
    return JournalEntry("wire", "address", name, None, "a")


@posix
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_journal_whose_writer_is_killed_is_the_old_or_the_new_one(
    step: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts file is replaced in the same way (files.replace_file)."""
    journal = Journal(tmp_path / "journal.json")
    journal.put(entry("one"))
    assert run(step, when, str(journal.path)).returncode == -9
    done = (step, when) == ("os.replace", "after")
    assert [one.name for one in journal.entries()] == ["one", "two"] if done else ["one"]
    monkeypatch.setattr(files, "_TEMPORARY_SECONDS", -1.0)
    journal.put(entry("three"))  # neither a lock nor litter is left
    assert journal.entries()[-1].name == "three"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["journal.json", "journal.json.lock"]


_PUTS = """
import sys
from pathlib import Path
from vmdns.host.plan import Journal, JournalEntry
for number in range(40):
    Journal(Path(sys.argv[1])).put(JournalEntry("wire", "address", f"{sys.argv[2]} {number}", None, "a"))
"""


def test_two_who_write_the_journal_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    words = [[sys.executable, "-c", _PUTS, str(path), who] for who in ("one", "two", "three")]
    started = [subprocess.Popen(one, env={**os.environ, "PYTHONPATH": str(ROOT)}) for one in words]
    assert [one.wait(60) for one in started] == [0, 0, 0]
    assert len(Journal(path).entries()) == 120


# On a file system of its own with 64 KiB, that is full but for a little: one entry fits, a long one does not.
_FULL = """
import errno, json, os, subprocess, sys
from pathlib import Path
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
from vmdns.host import plan
from vmdns.host import hosts_block as hostsfile
from vmdns.host.plan import Journal, JournalEntry
journal = Journal(folder / "journal.json")
journal.put(JournalEntry("wire", "address", "one", None, "a"))
hosts = folder / "hosts"
hosts.write_bytes(b"127.0.0.1 localhost\\n")
before = journal.path.read_bytes(), hosts.read_bytes()
(folder / "filler").write_bytes(b"x" * 32768)
written = []
class Address(plan.Setting):
    kind, elevated = "address", False
    def read(self): return None
    def write(self, value): written.append(value)
    def describe(self, before, after): return "have an address"
    def commands(self, value): return []
failed = []
try:
    plan.apply([plan.Step(Address("two"), None, "y" * 100_000)], journal, "wire", lambda line: None)
except OSError as error:
    failed.append(error.errno)
try:
    hostsfile.write(hosts, ["192.168.56.101\\t" + f"n{n}.local" for n in range(4000)])
except OSError as error:
    failed.append(error.errno)
same = before == (journal.path.read_bytes(), hosts.read_bytes())
(folder / "filler").unlink()
journal.put(JournalEntry("wire", "address", "two", None, "b"))
left = sorted(one.name for one in folder.iterdir())
print(json.dumps({"failed": failed, "same": same, "written": written, "entries": len(journal.entries()), "left": left}))
"""


@needs_mount_namespace
def test_on_a_full_disk_nothing_is_changed_and_nothing_lost(tmp_path: Path) -> None:
    found = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", _FULL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["failed"] == [28, 28]  # ENOSPC
    assert said["same"]
    assert said["written"] == []  # what cannot be journaled is not done
    assert said["entries"] == 2
    assert said["left"] == ["hosts", "journal.json", "journal.json.lock"]
