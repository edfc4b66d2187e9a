"""The blocking façade: same verbs, from scripts, threads, and beside a running loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator import Finished, OrchestratorError, ProviderConfig, RouterClosedError, ServerError, TextDelta
from orchestrator.core.events import RequestStarted
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail
from orchestrator.sync import Router
from support import Echo, mock


def test_the_same_verbs_block():
    with Router(providers=[mock("a", Answer("Hello there", pieces=["Hello ", "there"]))]) as router:
        assert router.route("x") == "Hello there"
        assert list(router.route_stream("x")) == ["Hello ", "there"]
        assert router.complete([{"role": "user", "content": "x"}]).provider == "a"
        assert isinstance(list(router.stream("x"))[-1], Finished)
        assert router.snapshot()["a"].requests == 4


def test_providers_join_swap_and_leave():
    with Router("first-available") as router:
        router.add_provider(mock("a"))
        router.update_providers([mock("b"), mock("c")])
        router.remove_provider("b")
        router.isolate("c")
        assert router.snapshot()["c"].breaker == "isolated"
        router.reset("c")
        assert router.route("x") == "c"


@pytest.mark.real_time
async def test_it_works_inside_the_thread_of_a_running_loop():
    with Router(providers=[mock("a")]) as router:
        assert router.route("x") == "a"
        assert list(router.route_stream("x")) == ["a"]
    assert asyncio.get_running_loop().is_running()


def test_several_threads_may_share_it():
    with Router(providers=[mock("a")]) as router, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(router.route, ["x"] * 40)) == ["a"] * 40
        assert router.snapshot()["a"].in_flight == 0


def test_errors_come_through_plain_and_in_the_middle_of_a_stream():
    with Router(providers=[mock("a", Fail(ServerError("x")), max_retries=0)]) as router, pytest.raises(ServerError):
        router.route("x")
    with Router(providers=[mock("a", BrokenStream(["half"], ServerError("x")))]) as router:
        pieces = router.route_stream("x")
        assert next(pieces) == "half"
        with pytest.raises(OrchestratorError):
            next(pieces)


def test_a_stream_that_is_left_gives_its_lease_back():
    with Router(providers=[mock("a", Answer("1 2", pieces=["1 ", "2"]))]) as router:
        pieces = router.route_stream("x")
        next(pieces)
        pieces.close()
        assert router.snapshot()["a"].in_flight == 0


def test_interrupting_the_waiting_thread_cancels_the_call():
    entered, ended = threading.Event(), threading.Event()

    class Slow(Echo):
        async def generate(self, prompt, params=None):
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()

    class Impatient(Router):
        def _wait(self, future):
            entered.wait(10)
            raise KeyboardInterrupt

    with Impatient(providers=[Slow(ProviderConfig(name="a"))]) as router:
        with pytest.raises(KeyboardInterrupt):
            router.route("x")
        assert ended.wait(10)
        router._wait = lambda future: future.result()


def test_closing_is_idempotent_and_final():
    router = Router(providers=[mock("a")])
    router.route("x")
    left_open = router.route_stream("x")
    next(left_open)
    router.close(grace=0)
    router.close()
    with pytest.raises(RouterClosedError):
        router.route("x")
    left_open.close()
    assert threading.active_count() == 1 or not any(t.name == "orchestrator" for t in threading.enumerate())


def test_a_router_that_was_never_used_closes_too():
    Router(providers=[mock("a")]).close()


class Hanging(Echo):
    def __init__(self, config):
        super().__init__(config)
        self.entered = threading.Event()

    async def generate(self, prompt, params=None):
        self.entered.set()
        await asyncio.sleep(3600)


def test_a_call_in_another_thread_ends_when_the_router_is_closed():
    provider = Hanging(ProviderConfig(name="a"))
    router = Router(providers=[provider])
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(router.route, "x")
        assert provider.entered.wait(5)
        router.close(grace=0)
        with pytest.raises(RouterClosedError):
            call.result(5)


def test_a_verb_called_by_a_listener_is_refused_instead_of_waiting_for_ever():
    seen = []

    def listener(event):
        if isinstance(event, RequestStarted):
            try:
                router.snapshot()
            except RuntimeError as error:
                seen.append(str(error))

    router = Router(providers=[mock("a")], listeners=[listener])
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(router.route, "x").result(5) == "a"
    router.close()
    assert len(seen) == 1


def test_an_interrupt_while_reading_a_stream_stays_an_interrupt():
    entered = threading.Event()

    class Slow(BaseProvider):
        async def open_stream(self, request):
            yield TextDelta("one")
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)

    class Impatient(Router):
        interrupted = False

        def _wait(self, future):
            if self.interrupted and entered.wait(5):
                self.interrupted = False
                raise KeyboardInterrupt
            return future.result()

    with Impatient(providers=[Slow(ProviderConfig(name="a"))]) as router:
        pieces = router.route_stream("x")
        assert next(pieces) == "one"
        router.interrupted = True
        with pytest.raises(KeyboardInterrupt):
            next(pieces)
        assert router.snapshot()["a"].in_flight == 0


def test_a_stream_dropped_in_the_routers_own_thread_does_not_stop_it():
    with Router(providers=[mock("a", Answer("1 2", pieces=["1 ", "2"]))]) as router:
        pieces = router.route_stream("x")
        next(pieces)
        router._loop.call_soon_threadsafe(pieces.close)  # as a garbage collection in that thread would
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(router.route, "x").result(5) == "1 2"
            assert threads.submit(router.snapshot).result(5)["a"].in_flight == 0


def test_closing_from_two_threads_at_once_is_closing_once():
    router = Router(providers=[mock("a")])
    router.route("x")
    with ThreadPoolExecutor(4) as threads:
        for closing in [threads.submit(router.close) for _ in range(4)]:
            closing.result(5)
    with pytest.raises(OrchestratorError):
        router.route("x")
