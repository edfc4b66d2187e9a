"""How many routed requests the simulator plays in a second of one core.

    python benchmarks/simulator.py [--rounds 5] [--write]

The scenario is ``scenarios/steady.toml`` with more requests: 60 000 of them, all plain, all streamed, or half of each,
through the real router with all its guards. Time is the process's own on the processor, so another one beside it takes
none of it, though it may make it slower; the middle round counts. ``--write`` stores ``results/simulator.json``.

Between the rounds a plain loop of 5 000 000 additions is timed in the same way, once in a function and once in a module
(global names, about twice as slow). Whoever compares two machines, or two hours on a shared one, divides by that:
``additions_per_request`` is how many of the module's additions one request is worth, and ``scaled_per_second`` what the
rate would be where they take 0.25 s, as on the machine for which the goal, 20 000 a second, was set.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.simulation import Scenario, simulate

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "simulator.json"
ADDITIONS = 5_000_000
GOAL_MACHINE = 0.25  # seconds for them, in a module
CHANGES = {"duration_s": 600.0, "traffic.rate_rps": 100.0, "providers.alike.capacity": 1000}
SUBJECTS = {
    "plain, round-robin": ("round-robin", 0.0),
    "half streamed, round-robin": ("round-robin", 0.5),
    "half streamed, least-latency": ("least-latency", 0.5),
    "streamed, round-robin": ("round-robin", 1.0),
}
IN_A_MODULE = compile(f"total = 0\nfor number in range({ADDITIONS}): total += number", "additions", "exec")


def in_a_module() -> None:
    exec(IN_A_MODULE, {})


def in_a_function() -> None:
    total = 0
    for number in range(ADDITIONS):
        total += number


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def measured(rounds: int) -> dict[str, Any]:
    """Rounds are interleaved, each with its own calibration before and after."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SUBJECTS}
    for _ in range(rounds):
        for name, (strategy, streamed) in SUBJECTS.items():
            scenario = Scenario.load(
                HERE / "scenarios" / "steady.toml", changes={**CHANGES, "traffic.streamed": streamed}
            )
            before = seconds(in_a_module)[0]
            taken, run = seconds(lambda scenario=scenario, strategy=strategy: simulate(scenario, strategy))
            module, function = (before + seconds(in_a_module)[0]) / 2, seconds(in_a_function)[0]
            rate = len(run.requests) / taken
            found[name].append({
                "requests": len(run.requests), "requests_per_second": round(rate),
                "additions_per_request": round(ADDITIONS / rate / module),
                "scaled_per_second": round(rate * module / GOAL_MACHINE),
                "calibration_s": {"module": round(module, 3), "function": round(function, 3)},
            })
    return {name: middle(each) for name, each in found.items()}


def middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The one in the middle: the best would be the one whose calibration was disturbed."""
    return sorted(rounds, key=lambda each: -each["additions_per_request"])[len(rounds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    subjects = measured(options.rounds)
    print(f"Python {platform.python_version()}, the middle of {options.rounds} rounds, one core")
    for name, found in subjects.items():
        loops = found["calibration_s"]
        print(f"{name:30} {found['requests_per_second']:7} requests a second, {found['additions_per_request']:5} "
              f"additions each (5 million: {loops['module']:.2f} s, in a function {loops['function']:.2f} s), "
              f"scaled {found['scaled_per_second']}")
    if options.write:
        RESULTS.write_text(json.dumps({
            "command": f"python benchmarks/simulator.py --rounds {options.rounds} --write",
            "python": platform.python_version(), "scenario": "steady.toml", "changes": CHANGES,
            "goal_machine_s": GOAL_MACHINE, "subjects": subjects,
        }, indent=2) + "\n")


if __name__ == "__main__":
    main()
