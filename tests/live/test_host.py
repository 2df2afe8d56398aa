"""`vmdns host --whole` beside a real VirtualBox: which name servers VirtualBox hands out to guests."""

from __future__ import annotations

import json
import sys

from tests.live.lab import Lab, run
from tests.needs import needs_mount_namespace

# In a mount namespace of its own, where /etc is a copy.
PROGRAM = """
import json, os, subprocess, sys, time
from vmdns.sources.installation import find
from vmdns.sources.virtualbox_api import Api

def vmdns(*arguments):
    done = subprocess.run([sys.executable, "-m", "vmdns", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

def name_servers(wanted):
    end = time.monotonic() + 60
    while list(api.array(api.vbox.host, "nameServers")) != wanted:
        assert time.monotonic() < end, (list(api.array(api.vbox.host, "nameServers")), wanted)
        time.sleep(0.05)
    return wanted

with open("/etc/resolv.conf", "w") as file:
    file.write("nameserver 192.0.2.1\\nsearch corp.test\\n")
api = Api(find(os.environ))
seen = [name_servers(["192.0.2.1"])]
listen = ["--listen", "127.0.0.1", "--listen", "198.18.53.53"]
server = subprocess.Popen([sys.executable, "-m", "vmdns", "run", *listen], stdout=subprocess.PIPE, text=True)
try:
    while not server.stdout.readline().startswith("ready"):
        assert server.poll() is None
    vmdns("host", "--whole", "--apply")
    seen.append(name_servers(["198.18.53.53"]))
    vmdns("host", "--undo")
    seen.append(name_servers(["192.0.2.1"]))
    vmdns("host", "--undo")
finally:
    server.terminate()
    server.wait()
print(json.dumps([*seen, open("/etc/resolv.conf").read()]))
"""
ETC = 'cp -a /etc "$1/etc" && rm -f "$1/etc/resolv.conf" && mount --bind "$1/etc" /etc && shift && exec "$@"'


@needs_mount_namespace
def test_virtualbox_hands_out_vmdns_and_then_the_servers_of_before(lab: Lab) -> None:
    command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", ETC, "sh", str(lab.folder)]
    output = run(*command, sys.executable, "-c", PROGRAM, env=lab.environ, seconds=300)
    before, whole, after, text = json.loads(output.splitlines()[-1])
    assert (before, whole, after) == (["192.0.2.1"], ["198.18.53.53"], ["192.0.2.1"])
    assert text == "nameserver 192.0.2.1\nsearch corp.test\n"
