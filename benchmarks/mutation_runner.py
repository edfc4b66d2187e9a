"""The processes of ``benchmarks/mutation.py``: pytest in a fork that sees one module with another code."""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import CodeType

LIBRARIES = (
    "pytest", "pytest_asyncio.plugin", "anyio.pytest_plugin", "anyio._backends._asyncio", "hypothesis.stateful",
    "coverage", "pydantic", "httpx", "tenacity", "aiobreaker", "h11", "opentelemetry.trace", "opentelemetry.metrics",
    "opentelemetry.sdk.trace", "respx", "unittest.mock", "tracemalloc",
)
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-m", "not real_time",
           "-W", "ignore:Module already imported")
LONG = ("test_7_attempts_are_bounded",)  # tests of many seconds that find nothing of their own
MEMORY = 3 * 2**30  # bytes; a mutant that collects things in an endless loop meets it
IMPORT_LIMIT, TEST_LIMIT = 60.0, 5.0  # seconds; a test also gets ten times what it usually takes


class Selection:
    """A pytest plugin: only these tests, in this order, each within its time; remembers the one that failed."""

    def __init__(self, tests: dict[str, float] | None, entered: Callable[[str], object] = lambda _: None) -> None:
        self.tests = tests  # with the seconds each usually takes; None: all
        self.rank = {test: rank for rank, test in enumerate(tests or ())}
        self.entered = entered
        self.failed: str | None = None
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self.tests is None:
            items[:] = [item for item in items if not item.name.startswith(LONG)]
        else:
            items[:] = sorted((i for i in items if i.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.entered(nodeid)
        if self.tests is not None:  # nobody handles the signal: it ends the process, whatever that is stuck in
            signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT + 10 * self.tests[nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def run(self, tree: Path, file: str) -> int:
        import pytest

        signal.setitimer(signal.ITIMER_REAL, IMPORT_LIMIT if self.tests is not None else 0)
        return int(pytest.main([*OPTIONS, str(tree / file)], plugins=[self]))


class MutatedLoader(SourceFileLoader):
    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class MutatedFinder:
    """Finds one module, and gives it another code."""

    def __init__(self, path: Path, code: CodeType) -> None:
        self.path = path
        self.name = ".".join(path.parts[path.parts.index("src") + 1:]).removesuffix(".py").removesuffix(".__init__")
        self.code = code

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        loader = MutatedLoader(name, str(self.path))
        loader.code = self.code
        return spec_from_file_location(name, self.path, loader=loader)


def prepare(tree: Path) -> None:
    """Load what every child needs, but nothing of ours."""
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    os.chdir(tree)
    sys.dont_write_bytecode = False  # the tests' own is used thousands of times; a mutant's is never written
    sys.path.insert(0, str(tree / "src"))
    from hypothesis import Phase, settings

    settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)
    settings.load_profile("mutation")
    gc.collect()
    gc.freeze()


def measure(tree: Path, test: str, targets: list[str]) -> dict:
    """Which test of a file executes which lines of the targets, and how long it takes."""
    import coverage

    paths = {target: str(tree / target) for target in targets}
    measured = coverage.Coverage(data_file=None, config_file=False, include=list(paths.values()))
    measured.start()
    selection = Selection(None, measured.switch_context)
    code = selection.run(tree, test)
    measured.stop()
    if code not in {0, 5}:  # 5: no test left, all are real_time
        return {"failed": selection.failed or f"pytest ended with {code}"}
    lines: dict[str, dict[str, list[int]]] = {}
    for target, path in paths.items():
        for line, contexts in measured.get_data().contexts_by_lineno(path).items():
            for context in filter(None, contexts):
                lines.setdefault(target, {}).setdefault(context, []).append(line)
    return {"lines": lines, "seconds": {name: round(s, 4) for name, s in selection.seconds.items()}}


def attempt(tree: Path, path: Path, code: CodeType, tests: dict[str, float]) -> dict:
    """The tests against a mutant, file by file, until one fails."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.meta_path.insert(0, MutatedFinder(path, code))
    selection = Selection(tests)
    began = time.monotonic()
    files = dict.fromkeys(test.split("::")[0] for test in tests)
    killed = any(selection.run(tree, file) for file in files)  # up to the first that fails
    return {
        "outcome": "killed" if killed else "survived", "by": (selection.failed or "import") if killed else None,
        "seconds": round(time.monotonic() - began, 2),
    }


class Children:
    """Forked processes, at most so many at once. One that ends without a word was killed: by its alarm, or it broke."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running: dict[Connection, tuple[int, object]] = {}

    def start(self, whose: object, work: Callable[[], dict]) -> None:
        reading, writing = Pipe(duplex=False)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for stream, nothing in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
                os.dup2(os.open(os.devnull, nothing), stream)
            try:
                result = json.dumps(work()).encode()
                signal.setitimer(signal.ITIMER_REAL, 0)
                writing.send_bytes(result)
            finally:
                os._exit(0)
        writing.close()
        self.running[reading] = pid, whose

    def ended(self) -> Iterator[tuple[object, dict]]:
        for reading in wait([*self.running]):
            pid, whose = self.running.pop(reading)
            try:
                result = json.loads(reading.recv_bytes())
            except EOFError:
                result = {}
            reading.close()
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            yield whose, result or {"outcome": "timeout" if late else "killed", "by": None, "seconds": TEST_LIMIT}

    def run(self, tasks: Iterable[tuple[object, Callable[[], dict]]]) -> Iterator[tuple[object, dict]]:
        """What each task returns, as they end."""
        try:
            for task in tasks:
                while len(self.running) >= self.workers:
                    yield from self.ended()
                self.start(*task)
            while self.running:
                yield from self.ended()
        finally:
            for pid, _ in self.running.values():
                os.killpg(pid, signal.SIGKILL)
