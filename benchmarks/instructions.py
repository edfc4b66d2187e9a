"""Processor instructions of a routed call, counted by valgrind: the same on every machine, however busy it is.

    python benchmarks/instructions.py [--against REVISION] [--write]

A process makes 100 calls, another one 600; the difference is that of 500 calls. ``--against`` counts the package of an
earlier revision of this repository, too. ``--write`` stores ``benchmarks/results/instructions.json``. Needs valgrind;
about half a minute per line.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "instructions.json"
STRATEGIES = ("round-robin", "least-latency")
FEW, MANY = 100, 600


async def call(strategy: str, times: int) -> None:
    from orchestrator import BaseProvider, Completion, ProviderConfig, Router, Usage

    class Instant(BaseProvider):
        async def complete(self, request):
            return Completion("answer", usage=Usage(5, 7))

    async with Router(strategy, [Instant(ProviderConfig(name=name)) for name in "abc"]) as router:
        for _ in range(times):
            await router.route("Hi")


def counted(package: Path, strategy: str, times: int) -> int:
    with tempfile.TemporaryDirectory() as place:
        out = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={place}/out", sys.executable, __file__,
             "--call", strategy, str(times)],
            env={**os.environ, "PYTHONPATH": str(package), "PYTHONHASHSEED": "0"}, capture_output=True, text=True,
            check=True,
        ).stderr
    found = re.search(r"refs:\s+([\d,]+)", out)
    assert found is not None, out
    return int(found[1].replace(",", ""))


def measured(package: Path) -> dict[str, int]:
    return {
        strategy: (counted(package, strategy, MANY) - counted(package, strategy, FEW)) // (MANY - FEW)
        for strategy in STRATEGIES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="a revision to compare with")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        gc.disable()
        asyncio.run(call(options.call[0], int(options.call[1])))
        return
    results = {"command": " ".join(["python benchmarks/instructions.py", *sys.argv[1:]]),
               "python": platform.python_version(), "instructions": {"now": measured(ROOT / "src")}}
    if options.against:
        with tempfile.TemporaryDirectory() as place:
            archive = subprocess.run(["git", "archive", options.against, "src"], cwd=ROOT, stdout=subprocess.PIPE,
                                     check=True).stdout
            subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
            results["instructions"][options.against] = measured(Path(place) / "src")
    print(json.dumps(results, indent=2))
    if options.write:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
