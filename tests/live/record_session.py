"""Records the picture of the README on a real VirtualBox: what `vmdns run` and four other commands really print.

    pip install rich
    tools/live-python tests/live/record_session.py docs/session.svg

The VMs are those of a lab of its own (tests/live/lab.py): their leases and the reports of Guest Additions are written
as VirtualBox writes them. Run it again whenever the output of a command in it changes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.live.lab import HOST_ONLY, ON_HOST_ONLY, ON_LAN, Lab, Server, on_nat_network, run, serving, until

COMMANDS = (
    "vmdns names",
    "dig +short @127.0.0.1 web.local",
    "vmdns ask maria-db",
    "vmdns ask maria-db --as shop",
)
ALT = "vmdns run prints names as VMs start and stop; vmdns names, dig and vmdns ask show them"
# Rich's own template loads fonts from elsewhere; this one names only what every system has.
TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="ALT">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
    font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#1b1f27" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="none">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
""".replace("ALT", ALT)


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[tuple[Lab, Server]]:
    """Five VMs on the four kinds of networks, the last of them started once `vmdns run` answers."""
    with contextlib.ExitStack() as stack:
        lab = Lab(folder)
        stack.callback(lab.close)
        lab.nat_network()
        web = lab.create("web", *ON_HOST_ONLY)
        kiosk = lab.create("kiosk", *ON_LAN)
        build = lab.create("build", "--nic1", "nat", "--nat-pf1", "ssh,tcp,127.0.0.1,2222,,22", wired=())
        database, shop = (lab.create(name, *on_nat_network()) for name in ("Maria DB", "shop"))
        for uuid in (web, kiosk, build):
            lab.start(uuid)
        lab.lease(HOST_ONLY, (lab.mac(web), "192.168.56.101"))
        lab.report(kiosk, "192.0.2.77")
        server = stack.enter_context(serving(lab, at=""))
        lab.start(database)
        lab.start(shop)
        lab.lease("NatNetwork", (lab.mac(database), "10.0.2.12"), (lab.mac(shop), "10.0.2.4"))
        server.saw("10.0.2.12")
        server.saw("10.0.2.4 ")
        lab.power_off(kiosk)
        server.saw("- kiosk.local")
        yield lab, server


def printed(command: str, lab: Lab) -> str:
    """What a command prints in a terminal of its own; `vmdns` is the one of this checkout."""
    words = shlex.split(command)
    program = [sys.executable, "-m", "vmdns"] if words[0] == "vmdns" else [words[0]]
    return run(*program, *words[1:], env=lab.environ, check=False)


def picture(blocks: list[tuple[str, str]]) -> str:
    """Commands and what each printed, as an SVG."""
    lines = [line for command, output in blocks for line in (f"$ {command}", *output.split("\n"))]
    width = max(len(line) for line in lines) + 1
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for number, (command, output) in enumerate(blocks):
        if number:
            console.print()
        console.print(Text("$ ", "bright_blue") + Text(command, "bold bright_white"))
        for line in output.rstrip("\n").split("\n"):
            console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(code_format=TEMPLATE, title="", unique_id="session")


def main() -> None:
    folder = Path("/home/me/lab") if os.getuid() == 0 else Path.home() / "vmdns-session"
    with machines(folder) as (lab, server):
        until(lambda: server.addresses("web.local") == ["192.168.56.101"], "web.local")
        blocks = [("vmdns run", "\n".join(server.lines))]
        blocks += [(command, printed(command, lab)) for command in COMMANDS]
    for command, output in blocks:
        print(f"$ {command}\n{output}")
    Path(sys.argv[1]).write_text(picture(blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
