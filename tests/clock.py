"""An event loop whose time passes only while nothing is left to do: hours of it take no time, and always the same."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class _Impatient(selectors.DefaultSelector):
    """Lets the loop's clock pass instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more")
        self.now += max(timeout, 0.0)
        return super().select(0)


class ClockLoop(asyncio.SelectorEventLoop):
    """time() begins at 0."""

    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)
        self._clock_resolution = 1e-9  # that of Windows is coarse

    def time(self) -> float:
        return self._impatient.now


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on such a loop."""
    errors: list[Mapping[str, Any]] = []
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
        result = runner.run(scenario)
    assert not errors, errors
    return result


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A decorator that runs a test on such a loop."""

    @functools.wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapped


async def inline(work: Callable[[], T]) -> T:
    """Stands for asyncio.to_thread, which such a loop does not wait for."""
    return work()


class Bench(Protocol):
    """What a scenario works with, made on the loop."""

    async def close(self) -> None: ...


B = TypeVar("B", bound=Bench)


def scenarios(make: Callable[[], B]) -> Callable[[Callable[[B], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """A decorator that makes a test of a scenario: it runs on such a loop, with a bench of its own."""

    def on_a_clock(scenario: Callable[[B], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        async def main() -> None:
            bench = make()
            await scenario(bench)
            await bench.close()

        def test() -> None:
            run(main())

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return on_a_clock
