"""The list of correct answers, each case against a running `vmdns run` with real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.behaviour import rows_clock, rows_edns, rows_forward, rows_header, rows_more, rows_own, rows_tcp  # noqa: F401
from tests.contract.behaviour.client import Client
from tests.contract.behaviour.table import ROWS, Row
from tests.contract.behaviour.upstream import Upstream
from tests.contract.test_run import Run
from tests.testzone import RECORDS

COUNTS = {"A": 25, "H": 20, "E": 20, "T": 12, "F": 44}
CONFIG = """
mdns = false
mdns_relay = false
hosts = false
upstreams = ["127.0.0.1:{upstream}"]
records = '''{records}'''

[forward]
"dead.test" = ["127.0.0.1:{dead}"]
"""


def test_every_case_of_the_list_is_there() -> None:
    wanted = {f"{letter}{number:02}" for letter, count in COUNTS.items() for number in range(1, count + 1)}
    assert len(wanted) == 121
    assert {row.id for row in ROWS if row.id[0] in COUNTS} == wanted


class Table:
    """A running server with its upstream, and the cases that were begun early."""

    def __init__(self, runner: asyncio.Runner, run: Run, upstream: Upstream) -> None:
        self.runner = runner
        self.run = run
        self.upstream = upstream
        self.begun: dict[Row, asyncio.Task[None]] = {}

    @property
    def six(self) -> tuple[str, int] | None:
        found = re.search(r"::1 port (\d+)", self.run.saw("ready:"))
        return ("::1", int(found.group(1))) if found else None

    def start(self, row: Row) -> asyncio.Task[None]:
        address = self.six if row.over == "udp6" else ("127.0.0.1", self.run.port)
        if address is None:
            pytest.skip("this machine has no ::1")
        unique = f"{row.id}{row.over}".lower()
        client = Client(address, row.over == "tcp", unique, self.upstream, lambda: self.run.lines)
        return self.runner.get_loop().create_task(row.scenario(client))  # type: ignore[arg-type]

    def hold(self, row: Row) -> None:
        task = self.begun.pop(row, None) or self.start(row)
        self.runner.run(_gather(task))


async def _gather(*tasks: asyncio.Task[None], return_exceptions: bool = False) -> None:
    await asyncio.gather(*tasks, return_exceptions=return_exceptions)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v")))
        dead = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        dead.bind(("127.0.0.1", 0))
        runner = stack.enter_context(asyncio.Runner(loop_factory=asyncio.SelectorEventLoop))
        upstream = Upstream()
        runner.run(upstream.start())
        stack.callback(lambda: runner.run(upstream.stop()))
        config = folder / "given.toml"
        config.write_text(
            CONFIG.format(upstream=upstream.port, dead=dead.getsockname()[1], records=RECORDS + "db A 192.168.56.102\n")
        )
        run = Run(folder, "--listen", "[::1]:0", "--listen", "127.0.0.1:0", "--config", str(config))
        stack.callback(run.stop)
        made = Table(runner, run, upstream)
        for item in request.session.items:
            row = getattr(item, "callspec", None) and item.callspec.params.get("row")  # type: ignore[attr-defined]
            if isinstance(row, Row) and row.slow:
                made.begun[row] = made.start(row)
        yield made
        for task in made.begun.values():
            task.cancel()
        runner.run(_gather(*made.begun.values(), return_exceptions=True))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.id}-{row.over}" for row in ROWS])
def test_case(table: Table, row: Row) -> None:
    table.hold(row)


def test_nothing_went_wrong_unseen(table: Table) -> None:
    assert not [line for line in table.run.lines if "Traceback" in line or "could not be answered" in line]
    assert table.run.stop() == 0
