"""`vmdns hosts`: writes the names that this computer can reach into its hosts file, once or at each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vmdns.commands import NOT_RUNNING, CommandError
from vmdns.control.client import ControlError, NotRunning
from vmdns.host import hosts_block
from vmdns.host.folders import hosts_path


def command(do: str, names: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    """The response of `vmdns hosts`: do is plan, apply or undo; names gives the server's names. Raises OSError."""
    file = hosts_path()
    wanted = None if do == "undo" else hosts_block.lines(names())
    before = hosts_block.read(file)
    if do != "plan" and before != wanted:
        writer = hosts_block.HostsWriter(file, once=True)
        writer.write(wanted)
        writer.close()
    return {"file": str(file), "before": before, "block": wanted, "done": do != "plan"}


def keep(
    changes: Callable[[], Iterator[object]], names: Callable[[], list[dict[str, Any]]], log: Callable[[str], None]
) -> None:
    """Writes the block at each change until Ctrl-C. Raises OSError, and `CommandError` when the server ends."""
    file = hosts_path()
    names()  # without a server there is nothing to write
    writer = hosts_block.HostsWriter(file, once=False)
    written: list[str] | None = None
    try:
        for _ in changes():
            wanted = hosts_block.lines(names())
            if wanted != written:
                writer.write(wanted)
                written = wanted
                log(f"{len(wanted)} {'line' if len(wanted) == 1 else 'lines'} of names in {file}")
    except (NotRunning, ControlError) as error:
        raise CommandError(str(error), NOT_RUNNING) from None
    finally:
        writer.close()
        if written is not None:
            log(f"the names are taken out of {file}")
    raise CommandError("vmdns has ended", NOT_RUNNING)
