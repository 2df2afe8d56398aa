"""What test_resolver_live.py does inside of a box (box.py): `vmdns host` beside real resolvers."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.host.box import OTHER, ROUTER, Box, same, until

WHOLE = ("--listen", "127.0.0.1", "--listen", "198.18.53.53")
OWN_NAMES = ("web.local", "web.vm.internal")
NAMES = (*OWN_NAMES, "www.example.org")
WEB = "192.168.56.101"
# What each of the two servers answers for every name, as some routers do.
BY_ROUTER, BY_OTHER = "192.0.2.200", "192.0.2.201"
RESOLV_CONF = Path("/etc/resolv.conf")


def split(box: Box) -> None:
    """systemd-resolved queries vmdns for its zones, and for nothing else."""
    box.resolved()
    box.serve()
    before = box.files()
    assert box.vmdns("host").startswith("1. write /etc/systemd/")
    same(box.files(), before)
    same(box.look_up("web.vm.internal"), [BY_ROUTER])
    box.router.queries.clear()
    box.vmdns("host", "--apply")
    same(box.steps("host"), [])
    until(lambda: box.look_up("web.vm.internal") == [WEB], "web.vm.internal is answered")
    same(box.look_up(*OWN_NAMES), [WEB, WEB])
    same(box.router.queries, [])
    counts = box.status()["counts"]
    same(box.look_up("www.example.org"), [BY_ROUTER])
    same(set(box.router.queries), {"www.example.org"})
    same(box.status()["counts"], counts)
    box.vmdns("host", "--undo")
    same(box.files(), before)
    box.router.queries.clear()
    box.run("resolvectl", "flush-caches")
    box.look_up("web.vm.internal")
    same(set(box.router.queries), {"web.vm.internal"})


def by_nss(box: Box) -> None:
    """Programs query systemd-resolved by nss-resolve, whatever resolv.conf says."""
    Path("/etc/nsswitch.conf").write_text("hosts: resolve [!UNAVAIL=return] files dns\n")
    box.resolved()
    box.serve(*WHOLE)
    before = box.files()
    box.vmdns("host", "--whole", "--apply")
    same(box.look_up(*NAMES), [WEB, WEB, BY_ROUTER])
    box.vmdns("host", "--undo")
    same(box.files(), before)


def port(box: Box) -> None:
    """vmdns has a port of its own."""
    box.resolved()
    box.serve("--listen", "127.0.0.1:5300")
    box.vmdns("host", "--apply")
    until(lambda: box.look_up("web.vm.internal") == [WEB], "web.vm.internal is answered")
    same(box.look_up(*OWN_NAMES), [WEB, WEB])


def whole(box: Box) -> None:
    """All names, beside systemd-resolved; the network changes meanwhile."""
    box.resolved()
    before = box.files()
    box.serve(*WHOLE)
    box.vmdns("host", "--whole", "--apply")
    text = RESOLV_CONF.read_text()
    assert "\nnameserver 198.18.53.53\n" in text
    same(text.count("\nnameserver "), 1)
    same(box.look_up(*NAMES), [WEB, WEB, BY_ROUTER])
    box.run("resolvectl", "dns", "lan0", OTHER)
    until(lambda: box.look_up("another.example.org") == [BY_OTHER], "vmdns follows the network's name server")
    same(box.upstreams(), [f"{OTHER}:53"])
    same(box.steps("host", "--whole"), [])
    box.vmdns("host", "--undo")
    same(box.files(), before)
    assert "198.18.53.53" not in box.run("ip", "address")


def vpn(box: Box) -> None:
    """A VPN gives its link a server for some domains, which resolves the company's names; then it ends.

    vmdns itself is queried, at first beside systemd-resolved, then while the whole computer queries vmdns.
    """
    box.resolved()
    box.link("tun0", "10.99.0.2/24")
    box.serve(*WHOLE)
    same(box.query("git.corp.example", "corp.example", "www.example.org"), [BY_ROUTER] * 3)
    box.run("resolvectl", "dns", "tun0", OTHER)
    box.run("resolvectl", "domain", "tun0", "~corp.example", "corp.lan")
    box.run("resolvectl", "default-route", "tun0", "no")
    until(lambda: "corp.example" in box.forwarded_domains(), "vmdns knows the VPN's domains")
    box.router.queries.clear()
    box.other.queries.clear()
    same(box.query("git1.corp.example", "intranet.corp.lan", "www1.example.org"), [BY_OTHER, BY_OTHER, BY_ROUTER])
    same(set(box.router.queries), {"www1.example.org"})
    same(set(box.other.queries), {"git1.corp.example", "intranet.corp.lan"})
    same(box.upstreams(), ["127.0.0.54:53"])
    box.vmdns("host", "--apply")
    same(box.query("git2.corp.example", "web.local", "www2.example.org"), [BY_OTHER, WEB, BY_ROUTER])
    box.vmdns("host", "--undo")
    box.vmdns("host", "--whole", "--apply")
    until(lambda: f"{OTHER}:53" in box.upstreams(), "vmdns queries the servers directly")
    same(box.query("git3.corp.example", "intranet3.corp.lan", "www3.example.org"), [BY_OTHER, BY_OTHER, BY_ROUTER])
    same(box.upstreams(), [f"{ROUTER}:53", f"{OTHER}:53"])
    box.vmdns("host", "--undo")
    box.run("resolvectl", "revert", "tun0")
    until(lambda: "corp.example" not in box.forwarded_domains(), "vmdns drops the VPN's domains")
    same(box.query("git4.corp.example", "www4.example.org"), [BY_ROUTER, BY_ROUTER])
    # The user has systemd-resolved forward everything to vmdns: vmdns must not forward to it.
    box.run("resolvectl", "dns", "lan0", "127.0.0.1")
    until(lambda: not box.upstreams(), "vmdns sees that it would query itself")
    same(box.query("www5.example.org"), ["SERVFAIL"])


def loop(box: Box) -> None:
    """The user has systemd-resolved forward everything to vmdns, at a port that its resolv.conf cannot name."""
    Path("/etc/systemd/resolved.conf").write_text("[Resolve]\nDNS=127.0.0.1:5300\nDomains=~.\n")
    box.resolved()
    box.serve("--listen", "127.0.0.1:5300")
    same(box.look_up("web.vm.internal", "www.example.org"), [WEB, BY_ROUTER])
    same(box.upstreams(), [f"{ROUTER}:53"])


def network_manager(box: Box) -> None:
    """All names, beside NetworkManager, whose network changes meanwhile, and which restarts."""
    Path("/etc/NetworkManager").mkdir()
    RESOLV_CONF.touch()
    box.bus()
    first = box.network_manager(ROUTER)
    box.serve(*WHOLE)
    before = until(lambda: ROUTER in RESOLV_CONF.read_text() and RESOLV_CONF.read_text(), "resolv.conf is written")
    box.vmdns("host", "--whole", "--apply")
    same(box.look_up("web.vm.internal", "www.example.org"), [WEB, BY_ROUTER])
    box.network(OTHER)
    box.run("nmcli", "connection", "reload")
    box.run("nmcli", "connection", "up", "lan")
    until(lambda: box.look_up("another.example.org") == [BY_OTHER], "vmdns follows NetworkManager")
    box.end(first)
    Path("/run/NetworkManager/no-stub-resolv.conf").unlink()
    box.network_manager(OTHER)
    same(os.readlink(RESOLV_CONF), "/etc/vmdns/resolv.conf")
    until(lambda: box.look_up("third.example.org") == [BY_OTHER], "vmdns follows NetworkManager after its restart")
    same(box.look_up("web.local", "third.example.org"), [WEB, BY_OTHER])
    box.vmdns("host", "--undo")
    same(RESOLV_CONF.read_text(), before)
    assert not RESOLV_CONF.is_symlink()


def plain(box: Box) -> None:
    """A plain resolv.conf: refused for single zones; for everything, vmdns forwards to the servers that it named."""
    RESOLV_CONF.write_text(f"# mine\nnameserver {ROUTER}\nsearch corp.test\noptions timeout:1\n")
    RESOLV_CONF.chmod(0o640)
    before = box.files()
    assert "`vmdns hosts --keep`" in box.vmdns("host", check=False)
    assert "no vmdns runs here" in box.vmdns("host", "--whole", "--apply", check=False)
    same(box.files(), before)
    # One runs without the right to the address: the last step is not done.
    elsewhere = box.serve("--listen", "127.0.0.1")
    last = box.vmdns("host", "--whole", "--apply", check=False).splitlines()[-1]
    assert last.startswith("vmdns: no vmdns answers at 198.18.53.53 port 53"), last
    assert RESOLV_CONF.read_text().startswith("# mine")
    box.end(elsewhere)
    box.serve(*WHOLE)
    box.vmdns("host", "--whole", "--apply")
    lines = [f"#vmdns nameserver {ROUTER}", "nameserver 198.18.53.53", "search corp.test", "options timeout:1"]
    same(RESOLV_CONF.read_text().splitlines()[1:], lines)
    same(box.look_up(*NAMES), [WEB, WEB, BY_ROUTER])
    assert "www.corp.test" in box.router.queries or box.look_up("www") == [BY_ROUTER]
    box.vmdns("host", "--undo")
    same(box.files(), before)


def dnsmasq(box: Box) -> None:
    """NetworkManager's dnsmasq, restarted by a simulated nmcli."""
    Path("/etc/NetworkManager/dnsmasq.d").mkdir(parents=True)
    Path("/run/NetworkManager").mkdir()
    RESOLV_CONF.write_text("# Generated by NetworkManager\nnameserver 127.0.0.1\n")
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
    until(lambda: box.look_up("web.vm.internal") == [WEB], "web.vm.internal is answered")
    same(box.look_up(*NAMES), [WEB, WEB, BY_ROUTER])
    same([name for name in box.router.queries if name.startswith("web")], [])
    box.vmdns("host", "--undo")
    same(box.files(), before)
    same(box.look_up("web.vm.internal"), [BY_ROUTER])


RESOLVED = (split, port, whole, by_nss, vpn, loop)  # those beside systemd-resolved, in each version that is there
SCENARIOS = {one.__name__: one for one in (*RESOLVED, plain, dnsmasq, network_manager)}
