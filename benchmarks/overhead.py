"""What the router adds to a provider that answers at once, above the bare await, every guard on.

    python benchmarks/overhead.py [--rounds 7] [--calls 20000] [--write]

Rounds of all subjects are interleaved in one run; the median of the rounds counts. ``--write`` stores the table with
the command under ``benchmarks/results/overhead.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from orchestrator import BaseProvider, Completion, Finished, ProviderConfig, Router, TextDelta

RESULTS = Path(__file__).parent / "results" / "overhead.json"
STRATEGIES = ("round-robin", "weighted", "random", "first-available", "least-latency")


class Instant(BaseProvider):
    async def complete(self, request):
        return Completion("answer")


class InstantStream(BaseProvider):
    pieces = 1000

    async def open_stream(self, request):
        for _ in range(self.pieces):
            yield TextDelta("x")
        yield Finished(Completion(""))


def providers(cls, count):
    return [cls(ProviderConfig(name=f"p{n}")) for n in range(count)]


async def per_call(call, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - started) / calls * 1e6


async def per_piece(stream, streams: int) -> float:
    pieces = 0
    started = time.perf_counter()
    for _ in range(streams):
        async for _ in stream():
            pieces += 1
    return (time.perf_counter() - started) / pieces * 1e6


async def bare_answer():
    return Completion("answer")


async def measure(rounds: int, calls: int) -> dict[str, float]:
    subjects = {"bare await": bare_answer}
    for name in STRATEGIES:
        router = Router(name, providers(Instant, 3))
        subjects[f"route, {name}, 3 providers"] = lambda router=router: router.route("Hi")
    hundred = Router("round-robin", providers(Instant, 100))
    subjects["route, round-robin, 100 providers"] = lambda: hundred.route("Hi")
    listened = Router("round-robin", providers(Instant, 3), listeners=[lambda event: None])
    subjects["route, round-robin, one listener"] = lambda: listened.route("Hi")
    alone = InstantStream(ProviderConfig(name="alone"))
    routed = Router("round-robin", providers(InstantStream, 3))
    streams = {
        "per piece, the provider alone": lambda: alone.open_stream(None),
        "per piece, stream": lambda: routed.stream("Hi"),
        "per piece, route_stream": lambda: routed.route_stream("Hi"),
    }
    samples: dict[str, list[float]] = {name: [] for name in (*subjects, *streams)}
    for _ in range(rounds):
        for name, call in subjects.items():
            samples[name].append(await per_call(call, calls))
        for name, stream in streams.items():
            samples[name].append(await per_piece(stream, max(1, calls // 2000)))
    return {name: statistics.median(values) for name, values in samples.items()}


def imported(statement: str) -> dict[str, float]:
    """Seconds that an import takes, and the most MB its process used until then."""
    # Not ru_maxrss: that of a child begins with its parent's.
    code = f"import time; began = time.perf_counter()\n{statement}\nseconds = time.perf_counter() - began\n"
    code += "status = open('/proc/self/status').read()\n"
    code += "print(seconds, int(status.split('VmHWM:')[1].split()[0]) / 1024)"
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", statement], env=compiled, check=True)  # so that all is compiled
    out = subprocess.run([sys.executable, "-c", code], env=compiled, capture_output=True, text=True, check=True).stdout
    return dict(zip(("seconds", "rss_mb"), map(float, out.split()), strict=True))


def importing(module: str) -> tuple[float, float]:
    runs = [imported(f"import {module}") for _ in range(5)]
    return statistics.median(run["seconds"] for run in runs), statistics.median(run["rss_mb"] for run in runs)


def calibration() -> float:
    """Seconds of the processor for five million additions: how fast this machine is, for who compares two of them."""
    began, total = time.process_time(), 0
    for number in range(5_000_000):
        total += number
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    table = asyncio.run(measure(options.rounds, options.calls))
    bare = table["bare await"]
    print(f"Python {platform.python_version()}, median of {options.rounds} rounds, µs")
    for name, value in table.items():
        above = f"   +{value - bare:6.2f} above the bare await" if name.startswith("route") else ""
        print(f"{name:40} {value:8.2f}{above}")
    imports = {name: importing(name) for name in ("orchestrator", "httpx")}
    for name, (seconds, megabytes) in imports.items():
        print(f"import {name:33} {seconds:8.3f} s {megabytes:6.1f} MB")
    if options.write:
        RESULTS.write_text(json.dumps({
            "command": "python benchmarks/overhead.py --write " + f"--rounds {options.rounds} --calls {options.calls}",
            "python": platform.python_version(), "seconds_for_5_000_000_additions": round(calibration(), 2),
            "microseconds": {name: round(value, 3) for name, value in table.items()},
            "import": {name: {"seconds": round(s, 3), "rss_mb": round(m, 1)} for name, (s, m) in imports.items()},
        }, indent=2) + "\n")


if __name__ == "__main__":
    main()
