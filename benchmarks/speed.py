"""What a call costs with this library, with what a user might take instead, and with a bare HTTP client.

    python benchmarks/speed.py --install               # the rivals, into environments under benchmarks/.rivals/
    python benchmarks/speed.py [--rounds 7] [--quick] [--subjects orchestrator,litellm] [--parts table] [--write]

All talk to one server that answers at once (``speed_server.py``), each from a process of its own, one after the other;
the rounds are interleaved, and a ratio is that of two figures of the same round. Seconds of the clock and of the
processor: on a machine that others use too, trust the second. ``--write`` stores ``benchmarks/results/speed.json`` and
the tables of ``docs/speed.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from select import select
from typing import Any

from overhead import imported
from speed_page import write

HERE = Path(__file__).parent
ROOT = HERE.parent
RIVALS = HERE / ".rivals"
OURS, FAST, SERVER = "orchestrator", "orchestrator-fast", "socket"
SUBJECTS = {  # name: the requirements file that makes its environment
    OURS: "requirements-raw", FAST: "requirements-raw", "litellm": "requirements-litellm",
    "langchain": "requirements", "pydantic-ai": "requirements-agents", "openai": "requirements",
    "tensorzero": "requirements-agents", "httpx": "requirements-raw", "aiohttp": "requirements-raw",
    "pyreqwest": "requirements-raw", SERVER: "requirements-raw",
}
SCALED = (OURS, FAST, "httpx", "aiohttp", "pyreqwest", "tensorzero", SERVER)  # the rest would take too long
CALLERS = (1, 8, 64, 256, 1000)
PROVIDERS = (1, 10, 100)
PIECES = 1000  # of a stream
HELD = 1000  # streams open at once
PARTS = ("table", "callers", "providers", "held", "allocations")
JOB = 90.0  # seconds, the most one job may take


class Worker:
    """The process of one subject; started again after it had to be stopped."""

    def __init__(self, subject: str, port: int, *, verbose: bool = False) -> None:
        self.subject = subject
        self._port = port
        self._verbose = verbose
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "127.0.0.1", "LITELLM_LOG": "CRITICAL",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false",
        }
        script = str(HERE / "rivals" / "speed_worker.py")
        self.process = subprocess.Popen(
            [python_of(self.subject), script, self.subject, f"http://127.0.0.1:{self._port}"], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if self._verbose else subprocess.DEVNULL,
            text=True,
        )
        self.ready = self._read()

    def _read(self) -> dict[str, Any]:
        found, _, _ = select([self.process.stdout], [], [], JOB)
        line = self.process.stdout.readline() if found else ""
        if line:
            return json.loads(line)
        self.stop()
        return {"error": "it ended" if found else f"not done after {JOB:.0f} s"}

    def ask(self, **job: Any) -> dict[str, Any]:
        if self.process.poll() is not None:
            self.start()
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        result = self._read()
        if "error" in result:
            print(f"{self.subject}, {job}: {result['error']}", file=sys.stderr, flush=True)
        return result

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def python_of(subject: str) -> str:
    python = RIVALS / SUBJECTS[subject] / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return str(python) if python.exists() else sys.exit(f"{subject} is not installed: run with --install")


def install() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in sorted(set(SUBJECTS.values())):
        if not (RIVALS / name).exists():
            subprocess.run([sys.executable, "-m", "venv", RIVALS / name], check=True)
        python = python_of(next(subject for subject, env in SUBJECTS.items() if env == name))
        own = ["-e", f"{ROOT}[fast]" if "fast" in extras else str(ROOT)] if SUBJECTS[OURS] == name else []
        wanted = ["-r", str(HERE / "rivals" / f"{name}.txt"), *own]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)


def calibration() -> float:
    """Seconds of the processor for 5 000 000 additions: how fast this machine is today."""
    started, total = time.process_time(), 0
    for n in range(5_000_000):
        total += n
    return time.process_time() - started


class Bench:
    """One run: the server, the workers, and how much each is given to do."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rounds = options.rounds
        self.seconds = 0.2 if options.quick else 0.5  # that one measurement should take
        self.server = subprocess.Popen(
            [sys.executable, str(HERE / "speed_server.py"), "--pieces", str(PIECES)], stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.server.stdout.readline())
        self.workers: dict[str, Worker] = {}
        for subject in options.subjects.split(","):
            worker = Worker(subject, self.port, verbose=options.verbose)
            if "missing" in worker.ready:
                print(f"{subject} is left out: {worker.ready['missing']}")
            elif "error" in worker.ready:
                sys.exit(f"{subject} does not start ({worker.ready['error']}); see with --verbose")
            else:
                self.workers[subject] = worker

    def close(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.server.kill()
        self.server.wait()

    def size(self, worker: Worker, least: int, job: dict[str, Any]) -> dict[str, float]:
        """How many calls take about ``seconds``, after a first, short measurement that warms up too."""
        if job["job"] == "steady":
            return {"seconds": self.seconds}
        name = "streams" if job["job"] == "stream" else "calls"
        for tried in (least, 4 * least):
            told = worker.ask(**job, **{name: tried})
            if "wall" not in told:
                return {}
            if told["wall"] > self.seconds:
                break
        calls = int(self.seconds / told["wall"] * tried)
        return {name: max(least, calls // least * least)}

    def interleaved(self, jobs: dict[str, tuple[Worker, int, dict[str, Any]]]) -> dict[str, Any]:
        """``jobs`` (a name: who does it, the least number of calls, what) in turn, ``rounds`` times; per call."""
        sizes = {name: self.size(worker, least, job) for name, (worker, least, job) in jobs.items()}
        samples: dict[str, list[dict[str, float]]] = {name: [] for name, size in sizes.items() if size}
        for _ in range(self.rounds):
            for name in list(samples):
                worker, _, job = jobs[name]
                told = worker.ask(**job, **sizes[name])
                if "wall" in told:
                    samples[name].append({kind: told[kind] / told["n"] for kind in ("wall", "cpu")})
                else:
                    del samples[name]
        return samples

    def table(self) -> dict[str, Any]:
        columns = {
            "instant": (50, {"job": "instant", "callers": 1}), "http": (20, {"job": "http", "callers": 1}),
            "http64": (64, {"job": "http", "callers": 64}), "piece": (1, {"job": "stream", "pieces": PIECES}),
        }
        table = {}
        for column, (least, job) in columns.items():
            jobs = {subject: (worker, least, job) for subject, worker in self.workers.items()}
            samples = self.interleaved(jobs)
            table[column] = {subject: self.row(samples[subject], samples.get(OURS)) for subject in samples}
            print_column(column, table[column])
        table["import"] = self.imports()
        print_column("import", table["import"])
        return table

    @staticmethod
    def row(samples: list[dict[str, float]], ours: list[dict[str, float]] | None) -> dict[str, float]:
        row = {}
        for kind in ("wall", "cpu"):
            row[kind] = statistics.median(sample[kind] for sample in samples)
            if ours is not None:
                ratios = (sample[kind] / own[kind] for sample, own in zip(samples, ours, strict=True))
                row[f"{kind}_ratio"] = statistics.median(ratios)
        return row

    def imports(self) -> dict[str, Any]:
        measured = {subject: worker for subject, worker in self.workers.items() if subject != SERVER}
        samples: dict[str, list[dict[str, float]]] = {subject: [] for subject in measured}
        for _ in range(min(self.rounds, 5)):
            for subject, worker in measured.items():
                samples[subject].append(imported(worker.ready["module"], python_of(subject)))
        return {
            subject: self.row(found, samples.get(OURS)) | {
                "rss_mb": statistics.median(sample["rss_mb"] for sample in found),
                "first": measured[subject].ready["first"],
            } for subject, found in samples.items()
        }

    def callers(self) -> dict[str, Any]:
        """Cost of a call by the number of callers, over HTTP and in the process (of one turn of the loop)."""
        found: dict[str, Any] = {"http": {}, "instant": {}}
        for place, rows in found.items():
            for subject, worker in self.workers.items():
                if subject in SCALED and (place == "http" or subject == OURS):
                    jobs = {str(n): (worker, n, {"job": "steady", "place": place, "callers": n}) for n in CALLERS}
                    rows[subject] = {n: self.row(samples, None) for n, samples in self.interleaved(jobs).items()}
                    shown = (f"{n}: {row['cpu'] * 1e6:.0f}" for n, row in rows[subject].items())
                    print(f"{place:8} {subject:18} µs of CPU per call by callers:  {'  '.join(shown)}", flush=True)
        return found

    def providers(self) -> dict[str, Any]:
        """Cost of a call by the number of providers, in the process, for each strategy."""
        from orchestrator.strategies.registry import BUILT_IN

        worker, found = self.workers[OURS], {}
        for strategy in BUILT_IN:
            jobs = {str(n): (worker, 50, {"job": "providers", "strategy": strategy, "count": n}) for n in PROVIDERS}
            found[strategy] = {n: self.row(samples, None) for n, samples in self.interleaved(jobs).items()}
            shown = (f"{n}: {row['cpu'] * 1e6:.1f}" for n, row in found[strategy].items())
            print(f"{strategy:18} µs of CPU per call by providers:  {'  '.join(shown)}", flush=True)
        return found

    def held(self) -> dict[str, Any]:
        """Memory per stream, nothing coming or pieces coming; the longest time without a piece of one."""
        found: dict[str, Any] = {}
        for subject in self.workers:
            row = {}
            for name, place, seconds in (("idle", "/held", 0), ("active", "/paced", 2 if self.options.quick else 5)):
                worker = Worker(subject, self.port, verbose=self.options.verbose)  # whose memory is fresh
                told = worker.ask(job="held", place=place, count=HELD, seconds=seconds)
                worker.stop()
                if "error" not in told:
                    row[name] = told
            if row:
                found[subject] = row
                shown = (f"{n} {told['kilobytes']:.1f} KB, gap {told['gap']:.3f} s" for n, told in row.items())
                print(f"{subject:18} per stream of {HELD}:  {';  '.join(shown)}", flush=True)
        return found

    def allocations(self) -> dict[str, Any]:
        found = {}
        for subject, worker in self.workers.items():
            told = worker.ask(job="allocations", calls=50)
            if "peak_bytes" in told:
                found[subject] = told
                print(f"{subject:18} at most {told['peak_bytes']:.0f} bytes during a call in the process, "
                      f"{told['blocks_kept']:.3f} blocks kept", flush=True)
        return found


def print_column(column: str, rows: dict[str, dict[str, float]]) -> None:
    for subject, row in rows.items():
        unit, scale = (" s", 1) if column == "import" else ("µs", 1e6)
        cpu = f"{row['cpu'] * scale:12.3f} {unit} CPU" if "cpu" in row else ""
        ratios = "  ".join(f"x{row[k]:.2f} {k[:4]}" for k in ("wall_ratio", "cpu_ratio") if k in row)
        print(f"{column:8} {subject:18} {row['wall'] * scale:12.3f} {unit} {cpu}  {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the rivals, and stop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="short rounds, three at most: does it work?")
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--verbose", action="store_true", help="show what the subjects print")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.install:
        install()
        return
    if options.write and (options.parts, options.subjects) != (parser.get_default("parts"), ",".join(SUBJECTS)):
        parser.error("--write stores one whole run: leave out --parts and --subjects")
    if options.quick:
        options.rounds = min(options.rounds, 3)
    started, before = time.monotonic(), calibration()
    bench = Bench(options)
    parts: dict[str, Callable[[], Any]] = {name: getattr(bench, name) for name in PARTS}
    try:
        measured = {name: part() for name, part in parts.items() if name in options.parts.split(",")}
    finally:
        bench.close()
    versions = {subject: worker.ready["versions"] for subject, worker in bench.workers.items()}
    given = [argument for argument in sys.argv[1:] if argument != "--write"]
    results = {
        "command": " ".join(["python benchmarks/speed.py", *given]), "python": platform.python_version(),
        "machine": {"additions": round(min(before, calibration()), 3), "cpus": os.cpu_count()},
        "took": round(time.monotonic() - started), "rounds": options.rounds, "versions": versions, **measured,
    }
    print(f"5 000 000 additions: {results['machine']['additions']} s; {results['took']} s in all")
    if options.write:
        write(results)


if __name__ == "__main__":
    main()
