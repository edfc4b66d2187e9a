"""A long run with faults: does memory grow, does anything leak, does anything but our own errors come out?

    python benchmarks/soak.py [--requests 1000000] [--minutes 5] [--fresh]

Three simulated providers in a process of their own answer over real HTTP on loopback, each in every way that
``orchestrator.testing.faults`` knows; one is asked by the httpx engine, two by the fast one. Plain calls and streams,
some cancelled, some abandoned by their reader. A sample every few seconds, after a garbage collection, goes to
``benchmarks/results/soak.jsonl``; a second call goes on counting where that file ends, also when the first was killed:
its samples count for the slope and the outcomes, but it has no end to be judged by. The verdict needs all of it: memory
flat after the warm-up of each call, the last call brought to its end, every counter at 0 at each end, nine of ten
answered, no unexpected exception.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import platform
import random
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TextIO

from orchestrator import BreakerPolicy, OrchestratorError, Router, Timeouts
from orchestrator.core.events import AttemptEnded, AttemptStarted, RequestEnded, RequestStarted
from orchestrator.providers import OpenAICompatibleProvider, ProviderConfig
from orchestrator.testing import SimulatedProvider
from orchestrator.testing import faults as f

RESULTS = Path(__file__).parent / "results"
SAMPLES, VERDICT = RESULTS / "soak.jsonl", RESULTS / "soak.json"

ENGINES = {"alpha": "httpx", "beta": "fast", "gamma": "fast"}
NAMES = tuple(ENGINES)
TEXT = "{name} answers: раз два три four five six seven eight 🌍 to {prompt}"
FAULTY = 0.12  # share of the requests that meet a fault
FAULTS: list[tuple[int, f.Fault]] = [  # how often, relative to one another; what costs a limit of time is rarer
    (10, f.Status(500)), (10, f.Status(503)), (4, f.Status(529)), (6, f.RateLimited(0.05)), (2, f.RateLimited(None)),
    (8, f.Disconnect()), (8, f.Disconnect(reset=True)), (2, f.Hang()),
    (2, f.Hang(after=0)), (2, f.Hang(after=1)), (2, f.KeepAliveOnly(interval=0.05)),
    (2, f.KeepAliveOnly(after=1, interval=0.05)), (4, f.Cut(after=0)), (4, f.Cut(after=1)),
    (4, f.Cut(after=3, how="reset")), (4, f.Cut(after=3, how="end")), (4, f.ShortBody()), (4, f.ErrorInside(after=0)),
    (4, f.ErrorInside(after=2)), (4, f.MALFORMED_JSON), (4, f.HTML), (4, f.NULL), (4, f.Body("{}")),
    (4, f.EMPTY_ANSWER), (4, f.NO_USAGE), (1, f.Endless(after=1)), (4, f.Split(3)), (4, f.Crlf()),
    (4, f.Repeat("finish")), (4, f.Drop("end")), (4, f.Drop("finish")), (4, f.Latency(0.1)),
]
REFUSALS = [(1, f.Status(401)), (1, f.Status(404))]  # by one of them: nobody waits for who refuses the key or the model
TIMEOUTS = Timeouts(connect=0.5, first_token=0.4, idle=0.4, attempt=0.4, total=3)
BREAKER = BreakerPolicy(break_base=0.2, break_max=1, credentials_break=0.2, ramp=0.5)

EXPIRY = 6.0  # seconds after which an idle connection is given up, and one more
CANCELLED, ABANDONED, DROPPED = 0.02, 0.02, 0.01  # shares; abandoned: closed early, dropped: not even closed
WARM = 20_000  # requests of each call of this command that do not count for the slope
FLAT = 1.0  # MB per 100 000 requests: a slope below it is flat


def serve() -> None:
    """The other process: three servers, whose scripts of faults are kept long enough."""

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients leave without a word, on purpose

    parent = os.getppid()

    async def run() -> None:
        chance = random.Random(1)
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(SimulatedProvider(
                    "openai", name=name, answer=lambda prompt, name=name: TEXT.format(name=name, prompt=prompt)
                )) for name in NAMES
            ]
            print(json.dumps([[s.name, s.base_url, s.api_key] for s in servers]), flush=True)
            planned = dict.fromkeys(NAMES, 0)
            while os.getppid() == parent:  # another one adopts it when that was killed
                for server in servers:
                    missing = server.received + 5000 - planned[server.name]
                    if missing > 0:
                        weights, kinds = zip(*FAULTS, *(REFUSALS if server.name == NAMES[0] else ()), strict=True)
                        faults = chance.choices(kinds, weights, k=missing)
                        server.script([fault if chance.random() < FAULTY else None for fault in faults])
                        planned[server.name] += missing
                await asyncio.sleep(0.2)

    asyncio.run(run())


class Soak:
    """The load, and what is known of it."""

    router: Router

    def __init__(self, done: int, goal: int, minutes: float, server: int) -> None:
        self.done = self.before = done
        self.goal = goal
        self.server = server  # its process
        self.ends_at = time.monotonic() + minutes * 60
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.requests = self.attempts = 0  # begun and not ended, as the events tell
        self.chance = random.Random(done)

    def listen(self, event: object) -> None:
        if isinstance(event, RequestStarted | RequestEnded):
            self.requests += 1 if isinstance(event, RequestStarted) else -1
        elif isinstance(event, AttemptStarted | AttemptEnded):
            self.attempts += 1 if isinstance(event, AttemptStarted) else -1

    async def client(self) -> None:
        """One after the other, until there are enough of them or the time is over."""
        while self.done < self.goal and time.monotonic() < self.ends_at:
            self.done += 1
            await self.one(str(self.done))

    async def one(self, prompt: str) -> None:
        draw = self.chance.random()
        streamed = self.chance.random() < 0.5
        call = self.stream(prompt, draw) if streamed else self.plain(prompt)
        try:
            if draw < CANCELLED:
                outcome = await self.cancelled(call)
            else:
                outcome = await call
        except OrchestratorError as error:
            outcome = type(error).__name__
        except Exception as exc:
            outcome = "unexpected"
            self.note(f"{type(exc).__module__}.{type(exc).__name__}: {exc}")
        self.outcomes[outcome] += 1

    async def cancelled(self, call: Coroutine[None, None, str]) -> str:
        task = asyncio.create_task(call)
        await asyncio.wait((task,), timeout=self.chance.uniform(0, 0.02))
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"

    async def plain(self, prompt: str) -> str:
        return self.check(prompt, await self.router.route(prompt))

    async def stream(self, prompt: str, draw: float) -> str:
        if 1 - draw < DROPPED:
            await anext(self.router.route_stream(prompt))
            return "dropped"
        pieces = []
        async with aclosing(self.router.route_stream(prompt)) as stream:
            async for piece in stream:
                pieces.append(piece)
                if 1 - draw < DROPPED + ABANDONED:
                    return "abandoned"
        return self.check(prompt, "".join(pieces))

    def check(self, prompt: str, text: str) -> str:
        if any(text == TEXT.format(name=name, prompt=prompt) for name in NAMES):
            return "answered"
        self.note(f"a wrong answer to {prompt}: {text[:200]!r}")
        return "unexpected"

    def note(self, what: str) -> None:
        if len(self.unexpected) < 20:
            self.unexpected.append(what)
            print(f"UNEXPECTED {what}", flush=True)

    def sample(self, run: int, rate: float) -> dict:
        snapshots = self.router.snapshot().values()
        before = rss()
        gc.collect()  # cycles that Python has not got round to are no leak; they show in the peak
        return {
            "run": run, "done": self.done, "this_run": self.done - self.before, "per_second": round(rate),
            "rss_mb": round(rss(), 2), "uncollected_mb": round(before - rss(), 2), "peak_mb": round(peak(), 2),
            "blocks": sys.getallocatedblocks(), "sockets": sockets(), "tasks": len(asyncio.all_tasks()),
            "in_flight": sum(s.in_flight for s in snapshots), "requests": self.requests, "attempts": self.attempts,
            "cpu_seconds": round(cpu(os.getpid()), 1), "server_cpu_seconds": round(cpu(self.server), 1),
            "breakers": "".join(s.breaker[0] for s in snapshots), "outcomes": dict(self.outcomes),
            "unexpected": self.unexpected,
        }


def rss() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sockets() -> int:
    return sum(target.startswith("socket:") for target in open_files())


def open_files() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            yield str(entry.readlink())


@contextmanager
def servers() -> Iterator[tuple[int, list[tuple[str, str, str]]]]:
    """The process of the servers, and what a provider has to know of each."""
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE)
    try:
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


async def soak(
    options: argparse.Namespace, out: TextIO, server: int, rows: list[tuple[str, str, str]], run: int, done: int
) -> None:
    providers = [
        OpenAICompatibleProvider(
            ProviderConfig(name=name, base_url=url, api_key=key, model="simulated", engine=ENGINES[name])
        ) for name, url, key in rows
    ]
    at_first = len(asyncio.all_tasks()), sockets()
    load = Soak(done, options.requests, options.minutes, server)
    load.router = Router(
        "least-latency", providers, timeouts=TIMEOUTS, breaker=BREAKER, listeners=[load.listen], seed=run
    )
    clients = [asyncio.create_task(load.client()) for _ in range(options.clients)]
    await watch(load, clients, run, out, options)
    await the_end(load, run, out, at_first)


async def watch(load: Soak, clients: list[asyncio.Task], run: int, out: TextIO, options: argparse.Namespace) -> None:
    """Sample until all clients are done."""
    earlier = traced = None
    while (pending := [task for task in clients if not task.done()]):
        count, began = load.done, time.monotonic()
        await asyncio.wait(pending, timeout=options.every)
        seconds = time.monotonic() - began
        sample = load.sample(run, (load.done - count) / seconds)
        out.write(json.dumps(sample) + "\n")
        out.flush()
        print(line(sample), flush=True)
        if options.trace and sample["this_run"] > WARM and traced is None:
            traced = tracemalloc.take_snapshot()
        earlier = sample
    for task in clients:
        task.result()
    if traced is not None and earlier is not None:
        gc.collect()
        for difference in tracemalloc.take_snapshot().compare_to(traced, "traceback")[:12]:
            print(f"{difference}\n    " + "\n    ".join(difference.traceback.format()[-6:]))


async def the_end(load: Soak, run: int, out: TextIO, at_first: tuple[int, int]) -> None:
    """What is left when all is over: first with the router open, then with it closed."""
    gc.collect()
    await asyncio.sleep(TIMEOUTS.total + EXPIRY)  # streams that their readers dropped, connections nobody uses
    for name in NAMES:
        await ask_only(load.router, name)
    sample = load.sample(run, 0)
    sample["connections_lost"] = max(0, sockets() - at_first[1] - 2 * len(NAMES))
    await load.router.aclose()
    del load.router
    gc.collect()
    await asyncio.sleep(0.2)
    sample |= {
        "end": True, "tasks_left": len(asyncio.all_tasks()) - at_first[0], "sockets_left": sockets() - at_first[1],
    }
    out.write(json.dumps(sample) + "\n")


async def ask_only(router: Router, name: str) -> None:
    """A few calls at this provider: a pool looks for expired connections only when it is asked for one."""
    for other in NAMES:
        (router.reset if other == name else router.isolate)(other)
    for _ in range(5):
        with suppress(OrchestratorError):
            await router.route("end")


def line(sample: dict) -> str:
    keys = ("done", "per_second", "rss_mb", "sockets", "tasks", "in_flight", "requests", "attempts", "breakers")
    return "  ".join(f"{key} {sample[key]}" for key in keys)


def read() -> list[dict]:
    """The samples; what a call that was killed wrote of its last one is cut off."""
    if not SAMPLES.exists():
        return []
    text = SAMPLES.read_text()
    if not text.endswith("\n"):
        text = text[:text.rfind("\n") + 1]
        SAMPLES.write_text(text)
    return [json.loads(row) for row in text.splitlines()]


def slope(samples: list[dict]) -> float | None:
    """MB per 100 000 requests: the median slope between two samples of one run (Theil-Sen), which passing peaks leave
    alone; None: too few samples.
    """
    slopes = [
        (b["rss_mb"] - a["rss_mb"]) / (b["done"] - a["done"]) * 100_000
        for a, b in combinations([s for s in samples if s["this_run"] > WARM], 2)
        if a["run"] == b["run"] and b["done"] > a["done"]
    ]
    return median(slopes) if len(slopes) >= 10 else None


def verdict(samples: list[dict], command: str, wanted: int) -> bool:
    grows = slope([sample for sample in samples if "end" not in sample])
    ends = [sample for sample in samples if "end" in sample]
    counters = ("in_flight", "requests", "attempts", "connections_lost", "tasks_left", "sockets_left")
    left = {key: sum(abs(end[key]) for end in ends) for key in counters}
    last = {sample["run"]: sample for sample in samples}  # a run that was broken off has no end
    outcomes = sum((Counter(sample["outcomes"]) for sample in last.values()), Counter())
    unexpected = outcomes["unexpected"]
    flat = grows is not None and grows < FLAT
    ended = outcomes.total()  # of those under way when a call was killed nothing is known
    answered = outcomes["answered"] > 0.9 * ended  # less: the machine had no time for it, and nothing was tested
    good = flat and answered and "end" in samples[-1] and not any(left.values()) and not unexpected
    told = "too few samples" if grows is None else f"{grows:+.2f} MB per 100 000 requests"
    rates = [s["per_second"] for s in samples if "end" not in s and s["this_run"] > WARM]
    print(f"\noutcomes: {dict(outcomes.most_common())}")
    print(f"{'PASSED' if good else 'FAILED'}: {ended} requests of {wanted}, RSS {told}, left at the end: "
          f"{left if ends else 'never got there'}, unexpected: {unexpected}")
    warm = [s for s in samples if s["run"] == samples[-1]["run"] and s["this_run"] > WARM]
    used = {
        name: round(1e6 * sum(sample[key] for sample in last.values()) / sum(s["this_run"] for s in last.values()))
        for name, key in (("client", "cpu_seconds"), ("servers", "server_cpu_seconds"))
    }
    VERDICT.write_text(json.dumps({
        "command": command, "python": platform.python_version(), "passed": good, "requests": ended,
        "requests_wanted": wanted, "runs": len(last), "runs_broken_off": len(last) - len(ends),
        "requests_per_second": round(sum(rates) / len(rates)) if rates else None,
        "cpu_microseconds_per_request": used,
        "rss_mb_per_100_000_requests": None if grows is None else round(grows, 3),
        "rss_mb": [warm[0]["rss_mb"], warm[-1]["rss_mb"]] if warm else [], "peak_mb": samples[-1].get("peak_mb"),
        "memory_blocks": [warm[0]["blocks"], warm[-1]["blocks"]] if warm else [], "left": left, "outcomes": outcomes,
    }, indent=2) + "\n")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60, help="of this call; a second call goes on")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--fresh", action="store_true", help="forget earlier samples")
    parser.add_argument("--trace", action="store_true", help="say where memory grew (slow)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.fresh:
        SAMPLES.unlink(missing_ok=True)
    samples = read()
    done = samples[-1]["done"] if samples else 0
    if done < options.requests:
        if options.trace:
            tracemalloc.start(8)
        with servers() as (server, rows), SAMPLES.open("a") as out:
            asyncio.run(soak(options, out, server, rows, samples[-1]["run"] + 1 if samples else 1, done))
    command = f"python benchmarks/soak.py --requests {options.requests} --minutes {options.minutes:g}"
    sys.exit(not verdict(read(), command, options.requests))


if __name__ == "__main__":
    main()
