"""What a call costs with this library, with what a user might take instead, and with a bare HTTP client.

    python benchmarks/speed.py --install               # the rivals, into environments under benchmarks/.rivals/
    python benchmarks/speed.py [--rounds 7] [--quick] [--subjects orchestrator,litellm] [--parts table] [--write]

All talk to one server that answers at once (``speed_server.py``), each from a process of its own, one after the other;
the rounds are interleaved, and a ratio is that of two figures of the same round. Seconds of the clock and of the
processor: on a machine that others use too, trust the second. ``--write`` stores ``benchmarks/results/speed.json`` and
the tables of ``docs/speed.md``.

All of it is for the Python that runs it: ``python3.13 benchmarks/speed.py`` takes the environments that the same with
``--install`` made, and writes a file and tables of its own.
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
from pathlib import Path
from select import select
from typing import Any

from speed_page import BASE, VERSION, write

HERE = Path(__file__).parent
ROOT = HERE.parent
RIVALS = HERE / ".rivals" if VERSION == BASE else HERE / ".rivals" / VERSION
OURS, FAST, SERVER = "orchestrator", "orchestrator-fast", "socket"
UVLOOP = "+uvloop"  # after the name of a subject: on that event loop
SUBJECTS = {  # name: the requirements file that makes its environment
    OURS: "requirements-raw", FAST: "requirements-raw", "litellm": "requirements-litellm",
    "langchain": "requirements", "pydantic-ai": "requirements-agents", "openai": "requirements",
    "tensorzero": "requirements-agents", "httpx": "requirements-raw", "aiohttp": "requirements-raw",
    "pyreqwest": "requirements-raw", SERVER: "requirements-raw",
}
SUBJECTS |= {name + UVLOOP: SUBJECTS[name] for name in (FAST, "tensorzero", "aiohttp", "pyreqwest")}
SCALED = (OURS, FAST, FAST + UVLOOP, "httpx", "aiohttp", "pyreqwest", "tensorzero", SERVER)  # the rest takes too long
CALLERS = (1, 8, 64, 256, 1000)
PROVIDERS = (1, 10, 100)
PIECES = 1000  # of a stream
HELD = 1000  # streams open at once
PARTS = ("table", "callers", "providers", "held", "allocations")
JOB = 60.0  # seconds, the most one job may take
BEGIN = 30.0  # seconds in which each of many callers must have had an answer, or each stream a piece


class Worker:
    """The process of one subject; started again after it had to be stopped."""

    def __init__(self, subject: str, port: int, *, verbose: bool = False) -> None:
        self.subject = subject
        self._port = port
        self._verbose = verbose
        self.ready = self.start()

    def start(self) -> dict[str, Any]:
        script = str(HERE / "rivals" / "speed_worker.py")
        self.process = subprocess.Popen(
            [python_of(self.subject), script, self.subject, f"http://127.0.0.1:{self._port}"], env=environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if self._verbose else subprocess.DEVNULL,
            text=True,
        )
        return self._read()

    def _read(self) -> dict[str, Any]:
        found, _, _ = select([self.process.stdout], [], [], JOB)
        line = self.process.stdout.readline() if found else ""
        if line:
            return json.loads(line)
        self.stop()
        return {"error": "it ended" if found else f"not done after {JOB:.0f} s"}

    def ask(self, **job: Any) -> dict[str, Any]:
        if self.process.poll() is not None and "error" in (again := self.start()):
            return again
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        result = self._read()
        if "error" in result:
            print(f"{self.subject}, {job}: {result['error']}", file=sys.stderr, flush=True)
            self.stop()  # whatever it has left undone ends with it
        return result

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def environment() -> dict[str, str]:
    """Of every subject. Byte code is kept, so that no figure of an import holds its compilation."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "127.0.0.1", "LITELLM_LOG": "CRITICAL",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false",
    }


def python_of(subject: str) -> Path:
    return RIVALS / SUBJECTS[subject] / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install() -> None:
    """An environment per file of requirements; what cannot be installed is told, and the rest goes on."""
    for name in sorted(set(SUBJECTS.values())):
        if not (RIVALS / name).exists():
            subprocess.run([sys.executable, "-m", "venv", RIVALS / name], check=True)
        python = python_of(next(subject for subject, env in SUBJECTS.items() if env == name))
        own = ["-e", f"{ROOT}[fast]"] if SUBJECTS[OURS] == name else []
        wanted = ["-r", str(HERE / "rivals" / f"{name}.txt"), *own]
        if subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=False).returncode:
            print(f"{name}: not installed for Python {VERSION}", file=sys.stderr)


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
        self.left_out: dict[str, str] = {}  # a subject: why
        for subject in options.subjects.split(","):
            reason = self.add(subject)
            if reason is not None:
                self.left_out[subject] = reason
                print(f"{subject} is left out: {reason} (what it says: --verbose)", file=sys.stderr)

    def add(self, subject: str) -> str | None:
        """Start its worker; why not, where that is so."""
        if not python_of(subject).exists():
            return "not installed"
        worker = Worker(subject, self.port, verbose=self.options.verbose)
        if "error" not in worker.ready:
            self.workers[subject] = worker
        return worker.ready.get("error")

    def close(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.server.kill()
        self.server.wait()

    @staticmethod
    def size(worker: Worker, least: int, job: dict[str, Any], seconds: float) -> dict[str, float]:
        """How many calls take about ``seconds``, after a first, short measurement that warms up too."""
        if job["job"] == "steady":
            return {"seconds": seconds}
        name = "streams" if job["job"] == "stream" else "calls"
        for tried in (least, 4 * least):
            told = worker.ask(**job, **{name: tried})
            if "wall" not in told:
                return {}
            if told["wall"] > seconds:
                break
        calls = int(seconds / told["wall"] * tried)
        return {name: max(least, calls // least * least)}

    def interleaved(
        self, jobs: dict[str, tuple[Worker, int, dict[str, Any]]], seconds: float, rounds: int = 0
    ) -> dict[str, Any]:
        """``jobs`` (a name: who does it, the least number of calls, what) in turn, ``rounds`` times; per call."""
        sizes = {name: self.size(worker, least, job, seconds) for name, (worker, least, job) in jobs.items()}
        samples: dict[str, list[dict[str, float]]] = {name: [] for name, size in sizes.items() if size}
        for _ in range(rounds or self.rounds):
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
            table[column] = rows_of(self.interleaved(jobs, self.seconds))
            print_column(column, table[column])
        return table | self.starts()

    def starts(self) -> dict[str, Any]:
        """Two columns: a program's import, and all of it until its first answer over HTTP; a fresh process each."""
        told: dict[str, list[Any]] = {name: [] for name in self.workers if name != SERVER and UVLOOP not in name}
        for number in range(1 + min(self.rounds, 5)):
            for subject, found in told.items():
                one = self.start(subject)
                if number:  # the first writes its byte code
                    found.append(one)
        columns = {}
        for column in ("import", "start"):
            columns[column] = rows_of({subject: [one[column] for one in found] for subject, found in told.items()})
            print_column(column, columns[column])
        for subject, row in columns["import"].items():
            row["rss_mb"] = statistics.median(one["import"]["rss_mb"] for one in told[subject])
        return columns

    def start(self, subject: str) -> dict[str, dict[str, float]]:
        script, url = str(HERE / "rivals" / "speed_start.py"), f"http://127.0.0.1:{self.port}/v1"
        ran = subprocess.run(
            [python_of(subject), script, subject, url, self.workers[subject].ready["module"]], env=environment(),
            capture_output=True, text=True, check=True, timeout=JOB,
        )
        return json.loads(ran.stdout.splitlines()[-1])  # a library may have printed before

    def callers(self) -> dict[str, Any]:
        """Cost of a call by the number of callers, over HTTP and in the process (of one turn of the loop).

        Fewer and longer rounds: a thousand callers take long to have one answer each.
        """
        found: dict[str, Any] = {"http": {}, "instant": {}}
        how = {"seconds": 2 * self.seconds, "rounds": min(self.rounds, 3)}
        for place, rows in found.items():
            for subject, worker in self.workers.items():
                if subject in SCALED and (place == "http" or subject == OURS):
                    job = {"job": "steady", "place": place, "limit": BEGIN}
                    jobs = {str(n): (worker, n, {**job, "callers": n}) for n in CALLERS}
                    rows[subject] = {n: row_of(samples) for n, samples in self.interleaved(jobs, **how).items()}
                    shown = (f"{n}: {row['cpu'] * 1e6:.0f}" for n, row in rows[subject].items())
                    print(f"{place:8} {subject:18} µs of CPU per call by callers:  {'  '.join(shown)}", flush=True)
        return found

    def providers(self) -> dict[str, Any]:
        """Cost of a call by the number of providers, in the process, for each strategy."""
        worker, found = self.workers[OURS], {}
        for strategy in worker.ask(job="strategies")["names"]:
            jobs = {str(n): (worker, 50, {"job": "providers", "strategy": strategy, "count": n}) for n in PROVIDERS}
            samples = self.interleaved(jobs, self.seconds / 2)
            found[strategy] = {n: row_of(told) for n, told in samples.items()}
            shown = (f"{n}: {row['cpu'] * 1e6:.1f}" for n, row in found[strategy].items())
            print(f"{strategy:18} µs of CPU per call by providers:  {'  '.join(shown)}", flush=True)
        return found

    def held(self) -> dict[str, Any]:
        """Memory per stream, nothing coming or pieces coming; the longest time without a piece of one."""
        found: dict[str, Any] = {}
        for subject in (name for name in self.workers if UVLOOP not in name):
            row = {}
            for name, place, seconds in (("idle", "/held", 0), ("active", "/paced", 2 if self.options.quick else 5)):
                worker = Worker(subject, self.port, verbose=self.options.verbose)  # whose memory is fresh
                told = worker.ask(job="held", place=place, count=HELD, seconds=seconds, limit=BEGIN)
                worker.stop()
                if "error" in told:
                    break  # who cannot hold them idle cannot hold them active
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


def row_of(samples: list[dict[str, float]], **beside: list[dict[str, float]] | None) -> dict[str, float]:
    """Medians of all rounds: of the seconds, and of how many times those ``beside`` them they are."""
    row = {}
    for kind in ("wall", "cpu"):
        row[kind] = statistics.median(sample[kind] for sample in samples)
        for name, others in beside.items():
            if others is not None:
                ratios = (sample[kind] / other[kind] for sample, other in zip(samples, others, strict=True))
                row[f"{kind}_{name}"] = statistics.median(ratios)
    return row


def rows_of(samples: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """A column of the table, with the ratio to ours, and to our fast engine on the same event loop."""
    rows = {}
    for subject, found in samples.items():
        loop = UVLOOP if UVLOOP in subject else ""
        rows[subject] = row_of(found, ratio=samples.get(OURS), fast_ratio=samples.get(FAST + loop))
    return rows


def print_column(column: str, rows: dict[str, dict[str, float]]) -> None:
    for subject, row in rows.items():
        unit, scale = (" s", 1) if column in ("import", "start") else ("µs", 1e6)
        cpu = f"{row['cpu'] * scale:12.3f} {unit} CPU" if "cpu" in row else ""
        ratios = "  ".join(f"x{row[k]:.2f} {k[:4]}" for k in ("wall_ratio", "cpu_ratio") if k in row)
        print(f"{column:8} {subject:24} {row['wall'] * scale:12.3f} {unit} {cpu}  {ratios}", flush=True)


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
    if unknown := set(options.subjects.split(",")) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    if options.quick:
        options.rounds = min(options.rounds, 3)
    started, before = time.monotonic(), calibration()
    bench = Bench(options)
    if OURS in bench.left_out:
        bench.close()
        sys.exit(f"{OURS}: {bench.left_out[OURS]}. Install all with --install")
    measured, took = {}, {}
    try:
        for name in (name for name in PARTS if name in options.parts.split(",")):
            began = time.monotonic()
            measured[name] = getattr(bench, name)()
            took[name] = round(time.monotonic() - began)
    finally:
        bench.close()
    versions = {subject: worker.ready["versions"] for subject, worker in bench.workers.items()}
    given = [argument for argument in sys.argv[1:] if argument != "--write"]
    results = {
        "command": " ".join(["python benchmarks/speed.py", *given]), "python": platform.python_version(),
        "machine": {"additions": round(min(before, calibration()), 3), "cpus": os.cpu_count()},
        "took": round(time.monotonic() - started), "took_by_part": took, "rounds": options.rounds,
        "versions": versions, "left_out": bench.left_out, **measured,
    }
    print(f"5 000 000 additions: {results['machine']['additions']} s; {results['took']} s in all: {took}")
    if options.write:
        write(results)


if __name__ == "__main__":
    main()
