"""What reading VirtualBox costs: the first look, one VM's change, and a minute of idling, for both readers.

    tools/live-python tests/bench/scan.py [api|vboxmanage] [registered VMs ...]     default: both, 10 100 1000

Up to 20 of the VMs are online (started, then paused: the interpreter would eat the machine). CPU is that of the
reader's process (`vmdns`), and of VBoxSVC beside it. Idling is measured on a whole `vmdns run`, for 60 s.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid as uuids
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.peers import workers
from tests.live.lab import NET, Lab, Server, on_nat_network

ONLINE = 20
IDLE_SECONDS = 60.0
CHANGES = 5
LONGEST_SECONDS = 120.0
TICK = os.sysconf("SC_CLK_TCK")


def cpu(pids: list[int]) -> float:
    """CPU seconds that these processes and their ended children took."""
    total = 0.0
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(word) for word in words[11:15]) / TICK
    return total


def register(lab: Lab, count: int) -> list[str]:
    """`count` VMs made of one by copying its settings file, which is what takes seconds instead of minutes."""
    first = lab.create("vm0", *on_nat_network("N"))
    settings = Path(re.search(r'CfgFile="(.*)"', lab.vbm("showvminfo", first, "--machinereadable"))[1])  # type: ignore[index]
    while lab.processes("VBoxSVC"):
        time.sleep(0.2)
    text = settings.read_text()
    mac = re.search(r'MACAddress="(\w+)"', text)[1]  # type: ignore[index]
    entries, found = [], [first]
    for number in range(1, count):
        uuid = str(uuids.uuid4())
        copy = settings.parent.parent / f"vm{number}" / f"vm{number}.vbox"
        copy.parent.mkdir()
        copy.write_text(
            text.replace(first, uuid).replace('name="vm0"', f'name="vm{number}"').replace(mac, f"0800270{number:05X}")
        )
        entries.append(f'<MachineEntry uuid="{{{uuid}}}" src="{copy}"/>')
        found.append(uuid)
    index = lab.home / "VirtualBox.xml"
    text = index.read_text()
    index.write_text(text.replace("</MachineRegistry>", "".join(entries) + "</MachineRegistry>"))
    return found


def child(reader: str) -> None:
    """In a process of its own with the lab's environment: times one reader, prints JSON."""
    from vmdns.sources.installation import find
    from vmdns.sources.worker import open_reader

    installation = find(os.environ)
    assert installation is not None
    options = {"reader": reader, "interval": 30.0, "failures": 0}
    one, _ = open_reader(installation, options, lambda: None)
    before, start = time.process_time(), time.perf_counter()
    facts = one.read(0.0)
    look = time.perf_counter() - start, time.process_time() - before
    spent, times = time.process_time(), []
    for number in range(CHANGES):
        print(json.dumps({"change": f"10.0.3.{number + 1}"}), flush=True)
        start = time.perf_counter()
        while not any(f"10.0.3.{number + 1}" in str(fact) for fact in one.read(5.0).values()):
            if time.perf_counter() > start + LONGEST_SECONDS:
                raise SystemExit(f"{reader}: a change was not seen in {LONGEST_SECONDS} s")
        times.append(time.perf_counter() - start)
    each = (time.process_time() - spent) / CHANGES
    machines = sum(1 for key in facts if key.startswith("machine:"))
    print(json.dumps({"machines": machines, "look": look, "change_cpu": each, "change": sorted(times)[CHANGES // 2]}))
    one.close()


def measure(lab: Lab, reader: str, online: str) -> dict[str, Any]:
    svc = lab.processes("VBoxSVC")
    before = cpu(svc)
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", reader], env=lab.environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    result: dict[str, Any] = {}
    for line in process.stdout:
        message = json.loads(line)
        if set(message) == {"change"}:
            if "svc" not in result:
                result["svc"] = cpu(svc) - before
            lab.vbm("guestproperty", "set", online, f"{NET}/0/V4/IP", message["change"], "--flags", "TRANSRESET")
        else:
            result.update(message)
    process.wait()
    return result


def idle(lab: Lab, reader: str) -> tuple[float, float]:
    """CPU of a whole vmdns and of VBoxSVC while nothing happens, in percent of a core."""
    server = Server(lab, "--reader", reader)
    time.sleep(5)
    ours = [server.process.pid, *workers(server.process.pid)]
    svc = lab.processes("VBoxSVC")
    before, before_svc, start = cpu(ours), cpu(svc), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    seconds = time.perf_counter() - start
    result = (cpu(ours) - before) / seconds * 100, (cpu(svc) - before_svc) / seconds * 100
    server.stop()
    return result


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
        return 0
    readers = [word for word in sys.argv[1:] if not word.isdigit()] or ["api", "vboxmanage"]
    for count in [int(word) for word in sys.argv[1:] if word.isdigit()] or [10, 100, 1000]:
        lab = Lab(Path(tempfile.mkdtemp(prefix="vmdns-scan")) / "lab")
        try:
            lab.add_nat_network("N", "10.0.0.0/16")
            found = register(lab, count)
            online = found[: min(ONLINE, count)]
            for uuid in online:
                lab.start(uuid)
                lab.vbm("controlvm", uuid, "pause")
            lab.report(online[0], "10.0.2.200")
            for reader in readers:
                one = measure(lab, reader, online[0])
                wall, spent = one["look"]
                print(
                    f"{count} VMs, {len(online)} online, {reader}: first look {wall:.2f} s, "
                    f"{wall / count * 1000:.1f} ms a VM (CPU {spent / count * 1000:.1f}, "
                    f"VBoxSVC {one['svc'] / count * 1000:.1f}); one change seen {one['change'] * 1000:.0f} ms "
                    f"after VBoxManage was started to make it (CPU {one['change_cpu'] * 1000:.1f} ms)",
                    flush=True,
                )
                percent, svc = idle(lab, reader)
                print(f"    idle: {percent:.2f} % of a core, VBoxSVC {svc:.2f} %", flush=True)
        finally:
            lab.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
