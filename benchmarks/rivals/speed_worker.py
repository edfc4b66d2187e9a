"""One subject of ``benchmarks/speed.py`` in a process of its own: jobs come in as JSON lines, results go out.

    python benchmarks/rivals/speed_worker.py SUBJECT[+uvloop] http://127.0.0.1:PORT
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from speed_subjects import SUBJECTS, Subject, instant_router

SETTLE = 0.5  # seconds from the last stream's first piece to the measurement
PACED_ALONE = 1.0  # seconds of a paced stream that are not judged: the others are still being opened
APART = 0.02  # seconds between two batches of streams that are opened
BATCH = 50


def rss() -> float:
    """KB of this process; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
    except (OSError, IndexError):
        return 0.0


async def timed(call: Callable[[], Awaitable[Any]], callers: int, calls: int) -> dict[str, float]:
    """``calls`` in all, of so many ``callers`` at once: seconds of the clock and of the processor."""
    async def caller() -> None:
        for _ in range(calls // callers):
            await call()

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    if callers == 1:
        await caller()
    else:
        await asyncio.gather(*(caller() for _ in range(callers)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"n": calls // callers * callers, "wall": wall, "cpu": cpu}


async def all_begun(begun: Callable[[], int], tasks: list[asyncio.Task[None]], started: float, limit: float) -> None:
    """Until each of ``tasks``, which have no end, has begun; gives up as soon as ``limit`` seconds will not do.

    That is judged from a third of ``limit`` on, as if the rest came as fast as what has come.
    """
    while (count := begun()) < len(tasks):
        for task in tasks:
            if task.done():
                task.result()
                raise ValueError("one ended")
        passed = time.perf_counter() - started
        if passed > limit / 3 and count * limit < len(tasks) * passed:
            raise TimeoutError(f"{count} of {len(tasks)} had begun after {passed:.0f} s")
        await asyncio.sleep(0.01)


async def steady(
    call: Callable[[], Awaitable[Any]], callers: int, seconds: float, limit: float
) -> dict[str, float]:
    """So many ``callers``, each again and again; from when each has had an answer, for about ``seconds``."""
    state = {"answers": 0, "begun": 0}
    stop = asyncio.Event()

    async def caller() -> None:
        await call()
        state["begun"] += 1
        while not stop.is_set():
            await call()
            state["answers"] += 1

    started = time.perf_counter()
    tasks = [asyncio.ensure_future(caller()) for _ in range(callers)]
    await all_begun(lambda: state["begun"], tasks, started, limit)
    state["answers"] = 0
    cpu, wall = time.process_time(), time.perf_counter()
    while not state["answers"] or time.perf_counter() < wall + seconds:  # noqa: ASYNC110  # both must be so
        await asyncio.sleep(min(seconds, 0.05))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answers = state["answers"]
    stop.set()
    await asyncio.gather(*tasks)
    return {"n": answers, "wall": wall, "cpu": cpu}


class Worker:
    """Does the jobs of one subject; keeps what was opened, so that the next round finds its connections."""

    def __init__(self, kind: type[Subject], root: str) -> None:
        self.kind = kind
        self.root = root
        self._open: dict[str, Subject] = {}
        self._calls: dict[Any, Callable[[], Awaitable[Any]]] = {}

    async def subject(self, place: str = "") -> Subject:
        if place not in self._open:
            self._open[place] = self.kind(f"{self.root}{place}/v1")
            await self._open[place].open()
        return self._open[place]

    async def do(self, job: dict[str, Any]) -> dict[str, Any]:
        job = dict(job)
        return await getattr(self, f"_{job.pop('job')}")(**job)

    async def _http(self, callers: int, calls: int) -> dict[str, Any]:
        return await timed((await self.subject()).answer, callers, calls)

    async def _instant(self, callers: int, calls: int) -> dict[str, Any]:
        call = self._instant_call()
        return {} if call is None else await timed(call, callers, calls)

    def _instant_call(self) -> Callable[[], Awaitable[Any]] | None:
        if "instant" not in self._calls:
            self._calls["instant"] = self.kind.instant()
        return self._calls["instant"]

    async def _steady(self, place: str, callers: int, seconds: float, limit: float) -> dict[str, Any]:
        if place == "http":
            return await steady((await self.subject()).answer, callers, seconds, limit)
        return await steady(self._router("first-available", 2, one_turn=True), callers, seconds, limit)

    async def _strategies(self) -> dict[str, Any]:
        from orchestrator.strategies.registry import BUILT_IN

        return {"names": list(BUILT_IN)}

    def _router(self, strategy: str, count: int, *, one_turn: bool = False) -> Callable[[], Awaitable[Any]]:
        key = strategy, count, one_turn
        if key not in self._calls:
            self._calls[key] = instant_router(strategy, count, one_turn=one_turn)
        return self._calls[key]

    async def _providers(self, strategy: str, count: int, calls: int) -> dict[str, Any]:
        return await timed(self._router(strategy, count), 1, calls)

    async def _stream(self, streams: int, pieces: int) -> dict[str, Any]:
        subject = await self.subject()
        heard = 0

        async def whole() -> None:
            nonlocal heard
            async for piece in subject.pieces():
                heard += len(piece)

        measured = await timed(whole, 1, streams)
        if heard != streams * pieces:
            raise ValueError(f"{heard} pieces came of {streams * pieces}")
        return measured | {"n": heard}

    async def _held(self, place: str, count: int, seconds: float, limit: float) -> dict[str, Any]:
        """Memory of so many streams open at once and, for a paced one, the longest time without a piece of one."""
        subject = await self.subject(place)
        state = {"opened": 0, "gap": 0.0, "judged_from": float("inf"), "pieces": 0}

        async def listen() -> None:
            last = 0.0
            async with aclosing(subject.pieces()) as pieces:
                async for piece in pieces:
                    if not piece:
                        continue
                    at = time.perf_counter()
                    if not last:
                        state["opened"] += 1
                    elif at > state["judged_from"]:
                        state["pieces"] += 1
                        state["gap"] = max(state["gap"], at - max(last, state["judged_from"]))
                    last = at

        async def hold(number: int) -> tuple[list[asyncio.Task[None]], float]:
            before, started = rss(), time.perf_counter()
            state["opened"] = 0
            tasks: list[asyncio.Task[None]] = []
            for n in range(number):
                tasks.append(asyncio.ensure_future(listen()))
                if n % BATCH == BATCH - 1:
                    await asyncio.sleep(APART)
            await all_begun(lambda: state["opened"], tasks, started, limit)
            await asyncio.sleep(SETTLE)
            return tasks, before

        await let_go((await hold(min(count, BATCH)))[0])  # what is made once
        gc.collect()
        tasks, before = await hold(count)  # which end with the process
        gc.collect()
        if seconds:
            await asyncio.sleep(PACED_ALONE)
        state["judged_from"] = started = time.perf_counter()
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        cpu = time.process_time() - cpu
        pieces, gap, wall = state["pieces"], state["gap"], time.perf_counter() - started
        kilobytes = (rss() - before) / len(tasks)
        return {"kilobytes": kilobytes, "gap": gap, "pieces": pieces, "cpu": cpu, "wall": wall, "n": count}

    async def _allocations(self, calls: int) -> dict[str, Any]:
        """Bytes in use at most during one call, above what was in use before it; what stays of a call."""
        call = self._instant_call()
        if call is None:
            return {}
        for _ in range(2 * calls):
            await call()
        gc.collect()
        blocks = sys.getallocatedblocks()
        for _ in range(10 * calls):
            await call()
        gc.collect()
        blocks = sys.getallocatedblocks() - blocks
        tracemalloc.start()
        peaks = []
        gc.disable()
        for _ in range(calls):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            await call()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        gc.enable()
        return {"peak_bytes": statistics.median(peaks), "blocks_kept": blocks / (10 * calls)}


async def let_go(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel them until all have ended: some libraries lose a cancellation that comes together with a piece."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def told(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc)[:300]}"


async def main(kind: type[Subject], root: str, loop: str) -> None:
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)  # whatever a library prints must not get between the lines
        worker = Worker(kind, root)
        try:
            await (await worker.subject()).answer()
        except Exception as exc:
            out.write(json.dumps({"error": told(exc)}) + "\n")
            os._exit(1)
        found = versions((*kind.packages, loop) if loop else kind.packages)
        out.write(json.dumps({"versions": found, "module": kind.module}) + "\n")
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                result = await worker.do(json.loads(line))
            except Exception as exc:
                result = {"error": told(exc)}
            out.write(json.dumps(result) + "\n")
        os._exit(0)  # nothing is left to be kept, and some take their time


if __name__ == "__main__":
    name, _, loop_name = sys.argv[1].partition("+")
    factory = import_module(loop_name).new_event_loop if loop_name else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(SUBJECTS[name], sys.argv[2], loop_name))
