"""What test_ask_live.py does inside of a box; each returns what it saw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.unit.host.box import OTHER, ROUTER, Box, until

WHOLE = ("--listen", "127.0.0.1", "--listen", "198.18.53.53")


def split(box: Box) -> dict[str, Any]:
    """systemd-resolved is told of our zones, and of nothing else."""
    box.resolved()
    box.serve()
    before = box.files()
    seen: dict[str, Any] = {"plan": box.vmdns("host"), "untouched": box.files() == before}
    seen["first"] = box.look_up("web.vm.internal")
    box.router.asked.clear()
    box.vmdns("host", "--apply")
    seen["again"] = json.loads(box.vmdns("host", "--json"))["steps"]
    until(lambda: box.look_up("web.vm.internal") == "192.168.56.101", "web.vm.internal is answered")
    seen["names"] = [box.look_up(name) for name in ("web.local", "web.vm.internal")]
    seen["leaked"] = list(box.router.asked)
    counts = box.asked()
    seen["other"] = box.look_up("www.example.org")
    seen["router"] = sorted(set(box.router.asked))
    seen["vmdns"] = box.asked() == counts
    box.vmdns("host", "--undo")
    seen["restored"] = box.files() == before
    box.router.asked.clear()
    box.run("resolvectl", "flush-caches")
    box.look_up("web.vm.internal")
    seen["after"] = sorted(set(box.router.asked))
    return seen


def by_nss(box: Box) -> dict[str, Any]:
    """Programs ask systemd-resolved by nss-resolve, whatever resolv.conf says."""
    Path("/etc/nsswitch.conf").write_text("hosts: resolve [!UNAVAIL=return] files dns\n")
    box.resolved()
    box.serve(*WHOLE)
    before = box.files()
    box.vmdns("host", "--whole", "--apply")
    seen = {"names": [box.look_up(name) for name in ("web.local", "web.vm.internal", "www.example.org")]}
    box.vmdns("host", "--undo")
    return {**seen, "restored": box.files() == before}


def port(box: Box) -> dict[str, Any]:
    """vmdns has a port of its own."""
    box.resolved()
    box.serve("--listen", "127.0.0.1:5300")
    box.vmdns("host", "--apply")
    until(lambda: box.look_up("web.vm.internal") == "192.168.56.101", "web.vm.internal is answered")
    return {"names": [box.look_up(name) for name in ("web.local", "web.vm.internal")]}


def whole(box: Box) -> dict[str, Any]:
    """All names, beside systemd-resolved; the network changes meanwhile."""
    box.resolved()
    before = box.files()
    box.serve(*WHOLE)
    refused = box.vmdns("ask", "www.example.org", check=False)
    box.vmdns("host", "--whole", "--apply")
    seen: dict[str, Any] = {"before": refused.splitlines()[0], "resolv.conf": Path("/etc/resolv.conf").read_text()}
    seen["names"] = [box.look_up(name) for name in ("web.local", "web.vm.internal", "www.example.org")]
    box.run("resolvectl", "dns", "lan0", OTHER)
    until(lambda: box.look_up("another.example.org") == "192.0.2.201", "vmdns follows the network's name server")
    seen["status"] = [one["address"] for one in json.loads(box.vmdns("status", "--json"))["upstreams"]]
    seen["again"] = json.loads(box.vmdns("host", "--whole", "--json"))["steps"]
    box.vmdns("host", "--undo")
    seen["restored"] = box.files() == before
    seen["address"] = "198.18.53.53" in box.run("ip", "address")
    return seen


def vpn(box: Box) -> dict[str, Any]:
    """A VPN gives its link a server for some domains, through which the company's names are asked; then it ends.

    Asked of vmdns itself, at first beside systemd-resolved, then while the whole computer asks vmdns.
    """
    box.resolved()
    box.link("tun0", "10.99.0.2/24")
    box.serve(*WHOLE)
    names = ["git.corp.example", "corp.example", "www.example.org"]
    seen: dict[str, Any] = {"before": box.ask(*names)}
    box.run("resolvectl", "dns", "tun0", OTHER)
    box.run("resolvectl", "domain", "tun0", "~corp.example", "corp.lan")
    box.run("resolvectl", "default-route", "tun0", "no")
    until(lambda: "corp.example" in box.upstreams(), "vmdns knows the VPN's domains")
    box.router.asked.clear()
    box.other.asked.clear()
    seen["split"] = box.ask("git1.corp.example", "intranet.corp.lan", "www1.example.org")
    seen["router"] = sorted(set(box.router.asked))
    seen["vpn"] = sorted(set(box.other.asked))
    seen["upstreams"] = sorted({one["address"] for one in box.status()["upstreams"]})
    box.vmdns("host", "--apply")
    seen["with host"] = box.ask("git2.corp.example", "web.local", "www2.example.org")
    box.vmdns("host", "--undo")
    box.vmdns("host", "--whole", "--apply")
    until(lambda: OTHER + ":53" in {one["address"] for one in box.status()["upstreams"]}, "vmdns asks servers directly")
    seen["whole"] = box.ask("git3.corp.example", "intranet3.corp.lan", "www3.example.org")
    seen["whole upstreams"] = sorted({one["address"] for one in box.status()["upstreams"]})
    box.vmdns("host", "--undo")
    box.run("resolvectl", "revert", "tun0")
    until(lambda: "corp.example" not in box.upstreams(), "vmdns forgets the VPN's domains")
    seen["after"] = box.ask("git4.corp.example", "www4.example.org")
    # The user has systemd-resolved ask vmdns for everything: it must not be asked in turn.
    box.run("resolvectl", "dns", "lan0", "127.0.0.1")
    until(lambda: not box.status()["upstreams"], "vmdns sees that it would ask itself")
    seen["loop"] = box.ask("www5.example.org")
    return seen


def loop(box: Box) -> dict[str, Any]:
    """The user has systemd-resolved ask vmdns for everything, at a port that its resolv.conf cannot name."""
    Path("/etc/systemd/resolved.conf").write_text("[Resolve]\nDNS=127.0.0.1:5300\nDomains=~.\n")
    box.resolved()
    box.serve("--listen", "127.0.0.1:5300")
    return {
        "names": [box.look_up(name) for name in ("web.vm.internal", "www.example.org")],
        "upstreams": [one["address"] for one in box.status()["upstreams"]],
    }


def network_manager(box: Box) -> dict[str, Any]:
    """All names, beside NetworkManager, which is told another network meanwhile, and starts anew."""
    Path("/etc/NetworkManager").mkdir()
    resolv_conf = Path("/etc/resolv.conf")
    resolv_conf.touch()
    box.bus()
    first = box.network_manager(ROUTER)
    box.serve(*WHOLE)
    before = until(lambda: ROUTER in resolv_conf.read_text() and resolv_conf.read_text(), "NetworkManager tells glibc")
    box.vmdns("host", "--whole", "--apply")
    seen: dict[str, Any] = {"names": [box.look_up(name) for name in ("web.vm.internal", "www.example.org")]}
    box.network(OTHER)
    box.run("nmcli", "connection", "reload")
    box.run("nmcli", "connection", "up", "lan")
    until(lambda: box.look_up("another.example.org") == "192.0.2.201", "vmdns follows NetworkManager")
    first.terminate()
    first.wait()
    Path("/run/NetworkManager/no-stub-resolv.conf").unlink()
    box.network_manager(OTHER)
    seen["link"] = os.readlink("/etc/resolv.conf")
    until(lambda: box.look_up("third.example.org") == "192.0.2.201", "vmdns follows NetworkManager that started anew")
    seen["again"] = [box.look_up(name) for name in ("web.local", "third.example.org")]
    box.vmdns("host", "--undo")
    seen["restored"] = resolv_conf.read_text() == before and not resolv_conf.is_symlink()
    return seen


def plain(box: Box) -> dict[str, Any]:
    """A plain resolv.conf: refused for single zones; for everything, vmdns goes on to ask whom it named."""
    Path("/etc/resolv.conf").write_text(f"# mine\nnameserver {ROUTER}\nsearch corp.test\noptions timeout:1\n")
    os.chmod("/etc/resolv.conf", 0o640)
    before = box.files()
    seen: dict[str, Any] = {"refused": box.vmdns("host", check=False)}
    # No vmdns runs: the computer is not sent where nobody answers.
    seen["alone"] = box.vmdns("host", "--whole", "--apply", check=False)
    seen["kept"] = box.files() == before
    # One runs that may not have the address: the last step is not made.
    other = box.serve("--listen", "127.0.0.1")
    seen["elsewhere"] = box.vmdns("host", "--whole", "--apply", check=False).splitlines()[-1]
    seen["still"] = Path("/etc/resolv.conf").read_text().startswith("# mine")
    other.terminate()
    other.wait()
    box.serve(*WHOLE)
    box.vmdns("host", "--whole", "--apply")
    seen["resolv.conf"] = Path("/etc/resolv.conf").read_text()
    seen["names"] = [box.look_up(name) for name in ("web.local", "web.vm.internal", "www.example.org")]
    seen["searched"] = "www.corp.test" in box.router.asked or box.look_up("www") == "192.0.2.200"
    box.vmdns("host", "--undo")
    seen["restored"] = box.files() == before
    return seen


def dnsmasq(box: Box) -> dict[str, Any]:
    """NetworkManager's dnsmasq, restarted by a stand-in for nmcli."""
    folder = Path("/etc/NetworkManager/dnsmasq.d")
    folder.mkdir(parents=True)
    Path("/run/NetworkManager").mkdir()
    Path("/etc/resolv.conf").write_text("# Generated by NetworkManager\nnameserver 127.0.0.1\n")
    Path("/run/NetworkManager/no-stub-resolv.conf").write_text(f"nameserver {ROUTER}\n")
    start = (
        f"chroot {box.root} dnsmasq --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces --user=root "
        f"--server={ROUTER} --conf-dir=/etc/NetworkManager/dnsmasq.d --pid-file=/run/NetworkManager/dnsmasq.pid"
    )
    box.program(
        "nmcli",
        '#!/bin/sh\n[ "$*" = "general reload dns-full" ] || exit 1\npid=/run/NetworkManager/dnsmasq.pid\n'
        "kill $(cat $pid)\nwhile [ -e $pid ]; do sleep 0.05; done\n" + start + "\n",
    )
    box.run(*start.split())
    box.serve("--listen", "127.0.0.1:5300")
    before = box.files()
    box.vmdns("host", "--apply")
    seen: dict[str, Any] = {}
    until(lambda: box.look_up("web.vm.internal") == "192.168.56.101", "web.vm.internal is answered")
    seen["names"] = [box.look_up(name) for name in ("web.local", "web.vm.internal", "www.example.org")]
    seen["leaked"] = [name for name in box.router.asked if name.startswith("web")]
    box.vmdns("host", "--undo")
    seen["restored"] = box.files() == before
    seen["after"] = box.look_up("web.vm.internal")
    return seen


SCENARIOS = {
    "split": split,
    "port": port,
    "whole": whole,
    "by_nss": by_nss,
    "plain": plain,
    "dnsmasq": dnsmasq,
    "network_manager": network_manager,
    "vpn": vpn,
    "loop": loop,
}
