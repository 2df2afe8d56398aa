"""Changes of VirtualBox's DHCP servers that were done, whatever VBoxManage said in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.host.test_wire_plan import HEAD, server, server_value
from vmdns.host.virtualbox_dhcp import DhcpServerPresence, VirtualBox

VALUE = server_value("10.0.2.2", "255.255.255.0", "10.0.2.4", "10.0.2.254")


def box(home: Path, servers: str, after: str) -> VirtualBox:
    """A VirtualBox with these servers, whose VBoxManage fails when there are those."""

    def write(text: str) -> None:
        (home / "VirtualBox.xml").write_text(HEAD.format(system="linux", servers=text, networks=""))

    def call(*arguments: str) -> str:
        write(after)
        raise OSError(f"VBoxManage {' '.join(arguments[:2])}: Failed to find DHCP server")

    write(servers)
    return VirtualBox(home, "VBoxManage", call)


HERE, GONE = server("lab", lower=4), ""


@pytest.mark.parametrize(
    ("before", "after", "wanted", "done"),
    [(HERE, GONE, None, True), (HERE, HERE, None, False), (GONE, HERE, VALUE, True), (GONE, GONE, VALUE, False)],
)
def test_what_was_done_is_no_failure(
    tmp_path: Path, before: str, after: str, wanted: dict[str, object] | None, done: bool
) -> None:
    setting = DhcpServerPresence("lab", box(tmp_path, before, after))
    if done:
        setting.write(wanted)
    else:
        with pytest.raises(OSError, match="Failed to find"):
            setting.write(wanted)
