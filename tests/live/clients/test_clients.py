"""Real stub resolvers in guests: what they find, by which names, on which network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.clients.net import unavailable
from tests.live.clients.scene import Scene, scene
from tests.live.clients.stubs import STUBS, Stub

TIMES = 20


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if why := unavailable():
        pytest.skip(why)
    with scene(tmp_path_factory.mktemp("clients") / "lab") as made:
        yield made


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.name)
@pytest.mark.parametrize("network", ["host-only", "bridged"])
def test_names(stage: Scene, network: str, stub: Stub) -> None:
    """Forward and reverse, each many times: an answer by luck is none."""
    link = stage.links[network]
    stage.server.saw(f"{link.host} port 53")
    with stage.asker(link, stub) as guest:
        for question, answer in stage.expected(link).items():
            found = {stub.ask(guest, question)[0] for _ in range(TIMES)}
            assert found == {(answer,)}, (question, guest.run("busybox", "cat", "/etc/resolv.conf"))
