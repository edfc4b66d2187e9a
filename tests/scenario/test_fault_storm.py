"""Ten minutes in which everything goes wrong at once, by chance, and whoever gets an answer gets an exact one."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest

from fault_table import CASES, VENDORS
from orchestrator import ContentFilteredError, OrchestratorError, Router, StreamInterruptedError
from orchestrator.core.clock import new_random
from orchestrator.testing import Recorder, SimulatedProvider, faults
from orchestrator.testing.loop import VirtualTimeLoop
from support import settle

MINUTES = 10
CALLERS = 20
THINKING = 45.0  # seconds on average between two requests of a caller
SHARE = 0.4  # of the chat requests meet a fault
LEASES = 6  # calls at once that a provider may have
STRATEGIES = ("least-latency", "round-robin", "random", "first-available", "weighted")
# Without those that change the answer, take long on a real clock, or tell the time of the real one.
LEFT_OUT = {"last line goes on", "endless", "endless after the first piece", "zip bomb", "429, a date", "429, epoch"}
FAULTS = [case.fault for case in CASES if case.name not in LEFT_OUT]


def says(name: str):
    return lambda prompt: f"{name} отвечает на «{prompt}» в пять слов"


class Storm:
    """Three providers, one router, twenty callers, and what became of their requests."""

    def __init__(self, seed: int) -> None:
        self.random = new_random(seed)
        self.recorder = Recorder()
        self.problems: list[object] = []
        self.outcomes: Counter[str] = Counter()
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.servers = [
            SimulatedProvider(vendor, name=vendor, answer=says(vendor), latency=0.5, jitter=0.4, tokens_per_second=5,
                              token_life=200, seed=seed)
            for vendor in VENDORS
        ]
        self.providers = [server.provider(max_concurrency=LEASES, rpm_limit=60) for server in self.servers]
        strategy = STRATEGIES[seed % len(STRATEGIES)]
        self.router = Router(strategy, self.providers, listeners=[self.recorder], seed=seed)

    async def blow(self) -> None:
        for server in self.servers:
            server.script(self._steps(500))
            server.script(self._steps(50), on="token")
        weather = asyncio.create_task(self._weather())
        await asyncio.gather(*(self._caller(number) for number in range(CALLERS)))
        weather.cancel()
        await asyncio.gather(weather, return_exceptions=True)

    def _steps(self, count: int) -> list[faults.Fault | None]:
        chance = self.random
        return [chance.choice(FAULTS) if chance.random() < SHARE else None for _ in range(count)]

    async def _weather(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(5, 60))
            server = self.random.choice(self.servers)
            server.down(self.random.choice(("refuse", "503", "hang")))
            await asyncio.sleep(self.random.uniform(1, 30))
            server.up()
            server.expire_tokens()

    async def _caller(self, number: int) -> None:
        chance, turn = self.random, 0
        while self.loop.time() < MINUTES * 60:
            await asyncio.sleep(chance.expovariate(1 / THINKING))
            prompt = f"вопрос {number}.{(turn := turn + 1)}"
            timeout = chance.choice((None, None, None, chance.uniform(0.1, 20)))
            how = self._read if chance.random() < 0.5 else self._ask
            request = asyncio.create_task(how(prompt, timeout))
            if chance.random() < 0.15:
                await asyncio.wait((request,), timeout=chance.choice((0, chance.uniform(0, 3), chance.uniform(0, 60))))
                request.cancel()
            try:
                self.outcomes[await request] += 1
            except asyncio.CancelledError:
                self.outcomes["cancelled"] += 1

    async def _ask(self, prompt: str, timeout: float | None) -> str:
        try:
            answer = await self.router.complete(prompt, timeout=timeout)
        except OrchestratorError as error:
            return type(error).__name__
        assert answer.text == says(answer.provider)(prompt)
        return "answered"

    async def _read(self, prompt: str, timeout: float | None) -> str:
        pieces: list[str] = []
        patience = self.random.choice((1, 3, 1000, 1000, 1000))
        whole = [says(vendor)(prompt) for vendor in VENDORS]
        try:
            async with aclosing(self.router.route_stream(prompt, timeout=timeout)) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    assert any(text.startswith("".join(pieces)) for text in whole)
                    if len(pieces) == patience:
                        return "left"
        except OrchestratorError as error:
            return self._broken(error, "".join(pieces))
        assert "".join(pieces) in whole
        return "answered"

    @staticmethod
    def _broken(error: OrchestratorError, handed_out: str) -> str:
        told = isinstance(error, StreamInterruptedError | ContentFilteredError)
        assert (error.partial == handed_out) if told else not handed_out
        assert handed_out or not isinstance(error, StreamInterruptedError)
        return type(error).__name__

    async def calm(self) -> None:
        """Nothing is left, and all that was taken may be taken again."""
        await settle()
        assert [one.in_flight for one in self.router.snapshot().values()] == [0, 0, 0]
        await asyncio.sleep(31)  # the fetch of a token belongs to no caller, and has a limit of its own
        assert [server.connections for server in self.servers] == [0, 0, 0]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for server in self.servers:
            server.up()
            for script in server._service.scripts.values():
                script.clear()
        await asyncio.sleep(900)  # the longest pause, and the longest break
        for provider in self.providers:  # each probed, and eased in, all on its own
            for other in self.providers:
                other.config.enabled = other is provider
            for _ in range(4):
                assert await self.router.route("снова здоров?") == says(provider.name)("снова здоров?")
                await asyncio.sleep(100)
        for provider in self.providers:
            provider.config.enabled = True
        self.recorder.check_invariants()
        before = len(self.recorder.attempts)
        begun = self.loop.time()
        answers = await asyncio.gather(*(self.router.route("все сразу") for _ in range(3 * LEASES)))
        assert self.loop.time() - begun < 5
        assert len(self.recorder.attempts) - before == 3 * LEASES
        assert Counter(answers) == {says(vendor)("все сразу"): LEASES for vendor in VENDORS}
        self.recorder.check_invariants()
        assert self.problems == []


@pytest.mark.parametrize("seed", range(20))
async def test_a_storm_of_faults_leaves_exact_answers_and_nothing_else(seed):
    storm = Storm(seed)
    await storm.blow()
    await storm.calm()
    await storm.router.aclose()
    assert storm.outcomes["answered"] > 80
    assert {"cancelled", "left", "StreamInterruptedError", "TimeoutError"} <= set(storm.outcomes)


def test_the_same_storm_has_the_same_history():
    async def history(seed: int) -> str:
        storm = Storm(seed)
        await storm.blow()
        await storm.router.aclose()
        return storm.recorder.text()

    def run(seed: int) -> str:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(history(seed))

    assert run(1) == run(1) != run(2)
