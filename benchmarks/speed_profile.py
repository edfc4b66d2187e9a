"""Where the time of a call goes: py-spy looks at the process a few hundred times a second.

    python benchmarks/speed.py --install                        # brings py-spy
    python benchmarks/speed_profile.py [--seconds 8] [--write]

Jobs of ``rivals/speed_worker.py``: a call in the process, calls and a stream over HTTP with either engine. By function,
the share of the samples in which it ran itself and in which it or something it called ran; then the shares by package.
``--write`` stores ``benchmarks/results/speed_profile.txt``.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from speed import FAST, OURS, PIECES, Worker, python_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "speed_profile.txt"
RATE = 400  # samples a second
CALLER = "timed.<locals>.caller"
MOST = 25  # functions that are shown
FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]*?)(?::\d+)?\)$")
JOBS = {  # what is done and how often per request for it
    "a call in the process": {"job": "instant", "callers": 1, "calls": 2000},
    "a call over HTTP": {"job": "http", "callers": 1, "calls": 100},
    "calls over HTTP, 64 callers": {"job": "http", "callers": 64, "calls": 640},
    "a stream over HTTP": {"job": "stream", "streams": 2, "pieces": PIECES},
}


def sampled(worker: Worker, job: dict, seconds: int) -> list[tuple[list[str], int]]:
    """The stacks that were seen, outermost first, and how often each."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            worker.ask(**job)

    thread = threading.Thread(target=work)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "stacks"
        spy = Path(python_of(OURS)).parent / "py-spy"
        thread.start()
        try:
            subprocess.run(
                [spy, "record", "--pid", str(worker.process.pid), "--duration", str(seconds), "--rate", str(RATE),
                 "--format", "raw", "--output", str(out)], check=True, capture_output=True,
            )
        finally:
            done.set()
            thread.join()
        rows = (line.rpartition(" ") for line in out.read_text().splitlines())
        return [(stack.split(";"), int(count)) for stack, _, count in rows]


def package(file: str) -> str:
    """``asyncio``, ``httpx`` … of a file as py-spy shows it, without what stands before the package."""
    parts = file.removeprefix("<").removesuffix(">").split("/")
    return parts[0] if len(parts) > 1 else "python"


def short(frame: str) -> str:
    match = FRAME.match(frame)
    if match is None:
        return frame
    file = re.sub(r".*(site-packages|/src|/lib/python[\d.]+)/", "", match["file"])
    return f"{match['name']} ({file})"


def report(title: str, stacks: list[tuple[list[str], int]]) -> list[str]:
    """The functions with the largest shares, and the packages."""
    own, total, packages = Counter(), Counter(), Counter()
    inside = []
    for stack, n in stacks:
        frames = list(map(short, stack))
        begin = next((at for at, frame in enumerate(frames) if frame.startswith(CALLER)), None)
        if begin is not None:  # not the pauses between two jobs
            inside.append((frames[begin:], n))
    samples = sum(n for _, n in inside)
    for frames, n in inside:
        own[frames[-1]] += n
        match = FRAME.match(frames[-1])
        packages[package(match["file"]) if match else "python"] += n
        total.update(dict.fromkeys(frames, n))
    lines = [f"== {title}: {samples} samples", "", "     own   total  function"]
    for frame, n in own.most_common(MOST):
        lines.append(f"{100 * n / samples:7.1f} % {100 * total[frame] / samples:5.1f} %  {frame}")
    lines += ["", "total, ours:"]
    ours = [(frame, n) for frame, n in total.most_common() if "(orchestrator/" in frame]
    lines += [f"{100 * n / samples:7.1f} %  {frame}" for frame, n in ours[:MOST]]
    shares = (f"{name} {100 * n / samples:.1f} %" for name, n in packages.most_common(8))
    return [*lines, "", "own, by package: " + ", ".join(shares), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="for each of the jobs")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, HERE / "speed_server.py", "--pieces", str(PIECES)], stdout=subprocess.PIPE, text=True
    )
    given = " ".join(argument for argument in sys.argv[1:] if argument != "--write")
    lines = [f"python benchmarks/speed_profile.py {given}".strip() + f", Python {platform.python_version()}", ""]
    port = int(server.stdout.readline())
    try:
        for subject, engine in {OURS: "httpx", FAST: "fast"}.items():
            worker = Worker(subject, port)
            if "error" in worker.ready:
                sys.exit(f"{subject}: {worker.ready['error']}")
            for title, job in JOBS.items():
                if job["job"] != "instant":
                    lines += report(f"{title}, engine {engine}", sampled(worker, job, options.seconds))
                elif subject == OURS:
                    lines += report(title, sampled(worker, job, options.seconds))
            worker.stop()
    finally:
        server.kill()
        server.wait()
    print("\n".join(lines))
    if options.write:
        RESULTS.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
