"""The processes of ``benchmarks/mutation.py``: pytest in forks that see one module changed.

Most mutants differ in the code of functions that run only while a test does. For them one process, the host, imports
everything and collects every test once; each mutant is a fork of it, with the code of those functions exchanged
(``hosted``). The rest (a constant of a module, a default, a function called at import) meets its tests in a process
that imports the changed module afresh (``attempt``).

Limits are CPU time, for a slow or busy machine must not make a test look as if it had got stuck; only who uses next to
no CPU time for a long while is ended by the clock.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import CodeType, FunctionType

LIBRARIES = (
    "pytest", "pytest_asyncio.plugin", "anyio.pytest_plugin", "anyio._backends._asyncio", "hypothesis.stateful",
    "coverage", "pydantic", "httpx", "tenacity", "aiobreaker", "h11", "opentelemetry.trace", "opentelemetry.metrics",
    "opentelemetry.sdk.trace", "respx", "unittest.mock", "tracemalloc",
)
OPTIONS = ("-x", "-q", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:cov", "-m", "not real_time",
           "-W", "ignore:Module already imported")
LONG = (  # tests of many seconds that find next to nothing of their own
    "test_7_attempts_are_bounded", "test_7_in_a_total_outage", "test_the_whole_answer_comes_in_spite_of_any_breaks",
    "test_a_text_only_reader_has_the_beginning", "test_the_longest_repetition_is_taken_off",
    "test_no_stream_of_a_custom_provider_has_more_events",
)
MEMORY = 3 * 2**30  # bytes; a mutant that collects things in an endless loop meets it
IMPORT_LIMIT, TEST_LIMIT = 120.0, 5.0  # seconds of CPU time; a test also gets ten times what it usually takes
STILL, TICK = 6, 10.0  # ends who has used next to no CPU time for six ticks of ten seconds
NEXT_TO_NONE = 0.01  # seconds of CPU time per tick: even who gets a hundredth of a core uses more
FINE, NO_TESTS = 0, 5  # pytest's exit codes

Task = tuple[dict, Callable[[], dict]]
Place = tuple[str, int]  # of a function: its qualified name and first line


class Note:
    """What a child was doing, readable after its death."""

    SIZE = 1000

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self.SIZE)

    def write(self, text: str) -> None:
        self._memory[:] = text.encode()[:self.SIZE].ljust(self.SIZE, b"\0")

    def read(self) -> str:
        return self._memory[:].rstrip(b"\0").decode(errors="replace")


NOTE = Note()  # of this process; replaced in each child


def limit_cpu(seconds: float) -> None:
    """Nobody handles the signal: it ends the process, whatever that is stuck in."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def end_who_is_still() -> None:
    """Look now and then whether this process does anything at all."""
    used, still = time.process_time(), 0

    def look(*_: object) -> None:
        nonlocal used, still
        before, used = used, time.process_time()
        still = still + 1 if used - before < NEXT_TO_NONE else 0
        if still >= STILL:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGALRM)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)


class Selection:
    """A pytest plugin: only these tests, in this order, each within its time; remembers the one that failed."""

    def __init__(self, tests: dict[str, float] | None, entered: Callable[[str], object] = lambda _: None) -> None:
        self.tests = tests  # with the CPU seconds each usually takes; None: all
        self.rank = {test: rank for rank, test in enumerate(tests or ())}
        self.entered = entered
        self.failed: str | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self._begun = 0.0

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self.tests is None:
            items[:] = [item for item in items if not item.name.startswith(LONG)]
        else:
            items[:] = sorted((i for i in items if i.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.entered(nodeid)
        NOTE.write(nodeid)
        self._begun = time.process_time()
        if self.tests is not None:
            limit_cpu(TEST_LIMIT + 10 * self.tests[nodeid])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.process_time() - self._begun

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def run(self, *files: str, plugins: Iterable[object] = ()) -> int:
        import pytest

        NOTE.write(f"collecting {files[0]}")
        limit_cpu(IMPORT_LIMIT if self.tests is not None else 0)
        return int(pytest.main([*OPTIONS, *files], plugins=[self, *plugins]))


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
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(  # nothing that is measured by the clock
        "mutation", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("mutation")
    gc.collect()
    gc.freeze()


def measure(tree: Path, tests: list[str], targets: list[str]) -> dict:
    """Per test file: which test executes which lines of the targets ("": while importing), and how long it takes."""
    import coverage

    paths = {target: str(tree / target) for target in targets}
    measured = coverage.Coverage(data_file=None, config_file=False, include=list(paths.values()))
    measured.start()
    selection = Selection(None, measured.switch_context)
    code = selection.run(*(str(tree / test) for test in tests))
    measured.stop()
    if code not in {FINE, NO_TESTS}:
        return {"failed": selection.failed or f"pytest ended with {code}"}
    rows: dict[str, dict] = {test: {"lines": {}, "seconds": {}} for test in tests}
    for name, seconds in selection.seconds.items():
        rows[name.split("::")[0]]["seconds"][name] = round(seconds, 4)
    for target, path in paths.items():
        for line, contexts in measured.get_data().contexts_by_lineno(path).items():
            for context in contexts:
                for test in [context.split("::")[0]] if context else tests:
                    rows[test]["lines"].setdefault(target, {}).setdefault(context, []).append(line)
    return {"rows": rows}


def is_function(code: CodeType) -> bool:
    return bool(code.co_flags & 1)  # CO_OPTIMIZED: not the body of a module or class


def changed_functions(old: CodeType, new: CodeType) -> dict[Place, CodeType] | None:
    """The new code of the outermost functions that differ; None where anything else does."""
    if is_function(old):
        return {} if old == new else {(old.co_qualname, old.co_firstlineno): new}
    inner = [[const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new)]
    own = [
        code.replace(co_consts=tuple(None if isinstance(const, CodeType) else const for const in code.co_consts))
        for code in (old, new)
    ]
    if own[0] != own[1] or len(inner[0]) != len(inner[1]):
        return None
    found: dict[Place, CodeType] = {}
    for pair in zip(*inner, strict=True):
        differing = changed_functions(*pair)
        if differing is None:
            return None
        found |= differing
    return found


class Host:
    """A pytest plugin: every test is collected, and instead of running them ``serve`` may fork."""

    def __init__(self, serve: Callable[[Host], None]) -> None:
        self.serve = serve
        self.items: dict[str, object] = {}
        self.functions: dict[tuple[str, Place], list[FunctionType]] = defaultdict(list)

    def pytest_runtestloop(self, session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        gc.unfreeze()  # what is frozen is not listed
        for found in gc.get_objects():
            if isinstance(found, FunctionType):
                code = found.__code__
                self.functions[code.co_filename, (code.co_qualname, code.co_firstlineno)].append(found)
        gc.collect()
        gc.freeze()
        self.serve(self)
        return True

    def knows(self, path: Path, functions: dict[Place, CodeType] | None) -> bool:
        """Whether there is a function for each code, to be exchanged."""
        return functions is not None and all(
            found and all(len(one.__code__.co_freevars) == len(code.co_freevars) for one in found)
            for place, code in functions.items() for found in [self.functions.get((str(path), place), [])]
        )

    def exchange(self, path: Path, functions: dict[Place, CodeType]) -> None:
        for place, code in functions.items():
            for function in self.functions[str(path), place]:
                function.__code__ = code


def hosted(host: Host, path: Path, functions: dict[Place, CodeType], tests: dict[str, float]) -> dict:
    """The tests against a mutant, in a fork of the host, until one fails."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    host.exchange(path, functions)
    selection = Selection(tests)
    began = time.process_time()
    items = [host.items[test] for test in tests if test in host.items]  # an id with an address in it is never the same
    for item, following in zip(items, [*items[1:], None], strict=False):
        if item is items[0]:
            item.config.pluginmanager.register(selection)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if selection.failed is not None:
            break
    return {
        "outcome": "survived" if selection.failed is None else "killed", "by": selection.failed,
        "seconds": round(time.process_time() - began, 2),
    }


def run_hosted(
    tests: list[str], workers: int, tasks: Callable[[Host], Iterable[Task]], seen: Callable[[dict, dict], object]
) -> Iterator[tuple[dict, dict]]:
    """What each task returns, as they end; ``tasks`` and ``seen`` are called in the host, which is a fork."""
    reading, writing = Pipe(duplex=False)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        reading.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

        def serve(host: Host) -> None:
            for whose, result in Children(workers).run(tasks(host)):
                writing.send((whose, result))
                seen(whose, result)

        code = Selection(None).run(*tests, plugins=[Host(serve)])
        os._exit(code)
    writing.close()
    with suppress(EOFError):
        while True:
            yield reading.recv()
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"the process that had collected the tests ended with {os.waitstatus_to_exitcode(status)}")


def attempt(tree: Path, path: Path, code: CodeType, tests: dict[str, float]) -> dict:
    """The tests against a mutant, file by file, until one fails."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.meta_path.insert(0, MutatedFinder(path, code))
    selection = Selection(tests)
    began = time.process_time()
    files = dict.fromkeys(test.split("::")[0] for test in tests)
    ends = (selection.run(str(tree / file)) for file in files)
    killed = any(end not in {FINE, NO_TESTS} for end in ends)  # up to the first that fails
    return {
        "outcome": "killed" if killed else "survived", "by": (selection.failed or "import") if killed else None,
        "seconds": round(time.process_time() - began, 2),
    }


def verdict(status: int, doing: str) -> dict:
    """What becomes of a child that ended without a word."""
    end = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    late = {signal.SIGPROF: "CPU time used up", signal.SIGALRM: "stood still"}
    how = late.get(end) or (f"exit {os.waitstatus_to_exitcode(status)}" if end is None else signal.Signals(end).name)
    outcome = "timeout" if end in late else "killed"
    return {"outcome": outcome, "by": None, "why": f"{how}: {doing}", "seconds": TEST_LIMIT}


class Children:
    """Forked processes, at most so many at once. One that ends without a word was killed: by a limit, or it broke."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running: dict[Connection, tuple[int, object, Note]] = {}

    def start(self, whose: object, work: Callable[[], dict]) -> None:
        global NOTE
        reading, writing = Pipe(duplex=False)
        sys.stdout.flush()
        note = Note()
        pid = os.fork()
        if pid == 0:
            NOTE = note
            os.setsid()
            for stream, nothing in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
                os.dup2(os.open(os.devnull, nothing), stream)
            end_who_is_still()
            try:
                result = work()
            except BaseException:  # before any test it is an error of ours, in a test the mutant has broken pytest
                last, doing = traceback.format_exc().strip().splitlines()[-1], NOTE.read()
                outcome = "killed" if "::" in doing else "error"
                result = {"outcome": outcome, "by": None, "why": f"{last}: {doing}", "seconds": TEST_LIMIT}
            limit_cpu(0)
            writing.send_bytes(json.dumps(result).encode())
            os._exit(0)
        writing.close()
        self.running[reading] = pid, whose, note

    def ended(self) -> Iterator[tuple[object, dict]]:
        for reading in wait([*self.running]):
            pid, whose, note = self.running.pop(reading)
            try:
                result = json.loads(reading.recv_bytes())
            except EOFError:
                result = {}
            reading.close()
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            yield whose, result or verdict(status, note.read())

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
            for pid, _, _ in self.running.values():
                os.killpg(pid, signal.SIGKILL)
