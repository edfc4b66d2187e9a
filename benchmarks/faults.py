"""The same faults against this library, litellm.Router, LangChain's with_fallbacks and the openai SDK, over real HTTP.

    python benchmarks/faults.py --install      # the rivals, into environments of their own under benchmarks/.rivals/
    python benchmarks/faults.py [--only 429,silence] [--subjects orchestrator,litellm] [--write]

The first provider meets the fault with every request, the second is healthy (the openai SDK has only the first). Each
subject runs in a process of its own. ``--write`` stores ``benchmarks/results/faults.json`` and the table in
``docs/faults.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from fault_cases import CASES, Case

from orchestrator.testing import SimulatedProvider

HERE = Path(__file__).parent
ROOT = HERE.parent
RIVALS = HERE / ".rivals"
RESULTS = HERE / "results" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- table: written by benchmarks/faults.py --write -->", "<!-- end of table -->"

SUBJECTS = {  # name: heading, the requirements file that makes its environment
    "orchestrator": ("resilient-orchestrator", None),
    "litellm": ("LiteLLM Router", "requirements-litellm"),
    "langchain": ("LangChain with_fallbacks", "requirements"),
    "openai": ("openai SDK, one provider", "requirements"),
}
SETTINGS = {  # what each was told, and what it cannot be told
    "orchestrator": "every limit, failover_on_content_filter=True; retries as by default",
    "litellm": "timeout=1.5, stream_timeout=1, LITELLM_MAX_STREAMING_DURATION_SECONDS=3, num_retries=0, all kinds of "
    "fallbacks; no limit for the whole call, none for a plain answer or a token but the time between two bytes",
    "langchain": "timeout=1.5 (streams: 1), stream_chunk_timeout=1, max_retries=0; no limit for the whole call, none "
    "for a plain answer but the time between two bytes",
    "openai": "timeout=1, max_retries=1; no limit for the whole call, none for an answer or a token but the time "
    "between two bytes",
}
# Seconds. `attempt` for one plain call at one provider; `total` for everything.
LIMITS = {"connect": 1.0, "first_token": 1.0, "idle": 1.0, "attempt": 1.5, "total": 3.0}
LATE = LIMITS["total"] + 0.5
OUTER = 6.0
KILL = OUTER + 2.0
MOST_RSS = 200.0  # MB by which the process may grow during one call
MODES = {"plain": "Plain answers", "stream": "Streams"}

TEXTS = {
    "alpha": "Альфа отвечает: раз два три четыре пять шесть семь восемь девять. 🌍",
    "beta": "Beta replies: one two three four five six seven eight nine. 🌙",
}
# Best first. All that begins with WRONG is worse than any error: the caller does not notice it.
RANKS = {
    "answered": 0, "clean error": 1, "late answer": 2, "late error": 2, "foreign error": 3, "hang": 4, "memory": 4,
    "WRONG: empty": 5, "WRONG: garbage": 5, "WRONG: truncated": 5, "WRONG: mixed": 5, "crash": 5,
}


class Worker:
    """The process of one subject; started again after it had to be killed."""

    def __init__(self, subject: str, *, verbose: bool) -> None:
        self.subject = subject
        self.verbose = verbose
        self.versions: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, job: dict) -> dict:
        """What became of one call; the process is killed when it grows too much or does not come back."""
        process = self._process or await self._start()
        before = rss(process.pid)
        process.stdin.write(json.dumps(job).encode() + b"\n")
        reply = asyncio.ensure_future(process.stdout.readline())
        grown = 0.0
        give_up_at = time.monotonic() + KILL
        while not reply.done() and grown <= MOST_RSS and time.monotonic() < give_up_at:
            await asyncio.wait((reply,), timeout=0.02)
            grown = max(grown, rss(process.pid) - before)
        if reply.done() and (line := reply.result()):
            return {**json.loads(line), "grown_mb": round(grown, 1)}
        outcome = "memory" if grown > MOST_RSS else "crash" if reply.done() else "hang"
        await self.stop()
        await asyncio.wait((reply,))
        return {"outcome": outcome, "seconds": time.monotonic() - give_up_at + KILL, "grown_mb": round(grown, 1)}

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "127.0.0.1", "LITELLM_LOG": "CRITICAL",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false",
            "LITELLM_MAX_STREAMING_DURATION_SECONDS": str(LIMITS["total"]),
        }
        self._process = await asyncio.create_subprocess_exec(
            python_of(self.subject), str(HERE / "rivals" / "worker.py"), self.subject, env=environment, limit=2**20,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if self.verbose else subprocess.DEVNULL,
        )
        ready = await self._process.stdout.readline()
        if not ready:
            raise SystemExit(f"{self.subject} does not start; try --install, then --verbose")
        self.versions = json.loads(ready)["versions"]
        return self._process

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def rss(pid: int) -> float:
    """MB of a process; 0 where there is no /proc, and then growth is not judged."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def python_of(subject: str) -> str:
    requirements = SUBJECTS[subject][1]
    if requirements is None:
        return sys.executable
    python = RIVALS / requirements / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return str(python) if python.exists() else sys.exit(f"{subject} is not installed: run with --install")


def install() -> None:
    for name in sorted({requirements for _, requirements in SUBJECTS.values() if requirements}):
        subprocess.run([sys.executable, "-m", "venv", RIVALS / name], check=True)
        python = python_of(next(subject for subject, row in SUBJECTS.items() if row[1] == name))
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "rivals" / f"{name}.txt"], check=True)


def judge(reply: dict) -> str:
    """The verdict on one cell."""
    text, late = reply.get("text", ""), reply["seconds"] > LATE
    told = [name for name, whole in TEXTS.items() if whole.partition(" ")[0] in text]
    if reply["outcome"] in {"memory", "crash", "hang"}:
        return "memory" if reply["grown_mb"] > MOST_RSS else reply["outcome"]
    if len(told) > 1:
        return "WRONG: mixed"
    if reply["outcome"] == "error":
        return "foreign error" if not reply["documented"] else "late error" if late else "clean error"
    if reply["outcome"] == "garbage":
        return "WRONG: garbage"
    if text in TEXTS.values():
        return "late answer" if late else "answered"
    if not text.strip():
        return "WRONG: empty"
    return "WRONG: truncated" if any(whole.startswith(text) for whole in TEXTS.values()) else "WRONG: garbage"


async def cell(worker: Worker, case: Case, mode: str) -> dict:
    """One fault at one subject, with two servers of its own."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(SimulatedProvider("openai", name=name, answer=text))
            for name, text in TEXTS.items()
        ]
        first = servers[0]
        if case.fault == "refuse":
            first.down("refuse")
        elif case.fault is not None:
            first.behave(failure=case.fault, failure_rate=1.0)
        providers = [
            {"name": s.name, "base_url": s.base_url, "api_key": s.api_key, "model": "gpt-simulated"} for s in servers
        ]
        reply = await worker.ask({"mode": mode, "providers": providers, "limits": LIMITS, "outer": OUTER})
        reply["calls"] = [server.received for server in servers]
    return {
        "verdict": judge(reply), "seconds": round(reply["seconds"], 2), "calls": reply["calls"],
        "grown_mb": reply["grown_mb"], "error": reply.get("error"), "finish": reply.get("finish"),
        "text": reply.get("text", "")[:120],
    }


async def measure(cases: list[Case], subjects: list[str], *, minutes: float, verbose: bool) -> dict:
    workers = {subject: Worker(subject, verbose=verbose) for subject in subjects}
    ends_at = time.monotonic() + minutes * 60
    table: dict[str, dict[str, dict]] = {mode: {} for mode in MODES}
    try:
        for worker in workers.values():  # imports, first-use caches
            for mode in MODES:
                await cell(worker, CASES[0], mode)
        for case in cases:
            for mode in case.modes:
                if time.monotonic() > ends_at:
                    sys.exit(f"not done after {minutes} minutes, at {case.name!r}; choose with --only")
                table[mode][case.name] = row = await one_row(workers, case, mode)
                print_row(case.name, mode, row)
    finally:
        for worker in workers.values():
            await worker.stop()
    return {"table": table, "versions": {subject: worker.versions for subject, worker in workers.items()}}


async def one_row(workers: dict[str, Worker], case: Case, mode: str) -> dict[str, dict]:
    if case.heavy:
        return {subject: await cell(worker, case, mode) for subject, worker in workers.items()}
    cells = await asyncio.gather(*(cell(worker, case, mode) for worker in workers.values()))
    return dict(zip(workers, cells, strict=True))


def told(result: dict) -> str:
    seconds = f" {result['seconds']:.1f} s" if result["seconds"] >= 0.15 else ""
    return result["verdict"] + seconds


def print_row(name: str, mode: str, row: dict[str, dict]) -> None:
    print(f"{name[:46]:46} {mode:6}  " + "  ".join(f"{told(result):22}" for result in row.values()), flush=True)


def counts(table: dict) -> dict[str, Counter]:
    found: dict[str, Counter] = {}
    for rows in table.values():
        for row in rows.values():
            for subject, result in row.items():
                found.setdefault(subject, Counter())[result["verdict"]] += 1
    return found


def lost(table: dict, ours: str = "orchestrator") -> Iterator[tuple[str, str, dict, str, dict]]:
    """The cells in which somebody has a better verdict than we have, or the same one clearly sooner."""
    for mode, rows in table.items():
        for name, row in rows.items():
            mine = row.get(ours)
            for subject, result in row.items() if mine is not None else ():
                rank, best = RANKS[mine["verdict"]], RANKS[result["verdict"]]
                if best < rank or (best == rank < 2 and result["seconds"] < mine["seconds"] - 0.25):
                    yield name, mode, mine, subject, result


def report(measured: dict) -> None:
    table = measured["table"]
    print()
    for subject, found in counts(table).items():
        versions = ", ".join(f"{name} {version}" for name, version in measured["versions"][subject].items())
        verdicts = ", ".join(f"{verdict} {n}" for verdict, n in sorted(found.items(), key=lambda p: RANKS[p[0]]))
        print(f"{SUBJECTS[subject][0]} ({versions}): {verdicts}")
        print(f"    {SETTINGS[subject]}")
    print(f"\nLimits, in seconds: {LIMITS}")
    for name, mode, mine, subject, result in lost(table):
        print(f"better than ours: {name}, {mode}: ours {told(mine)} ({mine['error']}), {subject} {told(result)}")


def markdown(results: dict) -> str:
    table, found = results["table"], counts(results["table"])
    subjects = list(found)
    headings = [SUBJECTS[subject][0] for subject in subjects]
    lines = [f"`{results['command']}`, Python {results['python']}, {results['took']} s.", ""]
    verdicts = [verdict for verdict in RANKS if any(found[subject][verdict] for subject in subjects)]
    lines += header(["Of all cells", *headings])
    lines += [row_of([verdict, *(str(found[s][verdict]) for s in subjects)]) for verdict in verdicts]
    for mode, title in MODES.items():
        lines += ["", f"### {title}", "", *header(["First provider", *headings])]
        lines += [
            row_of([name, *(shown(row[subject]) for subject in subjects)]) for name, row in table[mode].items()
        ]
    lines += ["", "### Settings", ""]
    lines += [f"- {SUBJECTS[subject][0]}: {SETTINGS[subject]}." for subject in subjects]
    lines += ["", "### Where another one does better", ""]
    lines += better(table) or ["Nowhere."]
    versions = {name: version for packages in results["versions"].values() for name, version in packages.items()}
    litellm = results["versions"].get("litellm", {})
    own = f" (LiteLLM brings openai {litellm['openai']})" if "openai" in litellm else ""
    lines += ["", "Versions: " + ", ".join(f"{n} {v}" for n, v in sorted(versions.items())) + own + "."]
    return "\n".join(lines)


def better(table: dict) -> list[str]:
    by_row: dict[tuple[str, str, str], list[str]] = {}
    for name, mode, mine, subject, result in lost(table):
        by_row.setdefault((name, mode, told(mine)), []).append(f"{SUBJECTS[subject][0]} {told(result)}")
    return [f"- {name}, {mode}: {mine}; {', '.join(others)}" for (name, mode, mine), others in by_row.items()]


def shown(result: dict) -> str:
    good = RANKS[result["verdict"]] < 2
    return told(result) if good else f"**{told(result)}**"


def header(titles: list[str]) -> list[str]:
    return [row_of(titles), "|" + "---|" * len(titles)]


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write(results: dict) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{rest.partition(END)[2]}")


def chosen(only: str) -> list[Case]:
    words = [word.strip() for word in only.split(",") if word.strip()]
    return [case for case in CASES if not words or any(word.lower() in case.name.lower() for word in words)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the rivals, and stop")
    parser.add_argument("--only", default="", help="faults whose name contains one of these, comma between")
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--verbose", action="store_true", help="show what the subjects print")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.install:
        install()
        return
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # servers whose client was killed
    started = time.monotonic()
    measured = asyncio.run(measure(
        chosen(options.only), options.subjects.split(","), minutes=options.minutes, verbose=options.verbose
    ))
    report(measured)
    took = round(time.monotonic() - started)
    if options.write:
        write({
            "command": "python benchmarks/faults.py --write", "python": platform.python_version(), "took": took,
            "limits": LIMITS, **measured,
        })


if __name__ == "__main__":
    main()
