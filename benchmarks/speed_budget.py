"""What a call and a piece of a stream may cost, counted instead of timed: the same figures on every machine.

    python benchmarks/speed_budget.py                                         # counts, and compares
    python benchmarks/speed_budget.py --functions "call, round-robin"         # which function has how many of them
    python benchmarks/speed_budget.py --strategies                            # how they grow with the providers
    python benchmarks/speed_budget.py --update "why the new figures are right" [--python OTHER_PYTHON ...]

``calls``: functions called by our code or inside it, C's too. ``instructions``: of the byte code of our files.
``blocks``: blocks of memory that a call under way holds. Time is virtual, so no bucket of a second ends in between. The
compiler and the runtime differ by version, so there are figures for each; ``tests/meta/test_speed_budget.py`` compares.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx
from speed_page import BUDGET, budget_table, put

import orchestrator
from orchestrator import BaseProvider, Completion, Finished, ProviderConfig, Router, RoutingStrategy, TextDelta
from orchestrator.providers import OpenAICompatibleProvider
from orchestrator.strategies.least_latency import LeastLatency
from orchestrator.strategies.registry import BUILT_IN
from orchestrator.testing.loop import VirtualTimeLoop

STORED = Path(__file__).with_name("speed_budget.json")
OURS = str(Path(orchestrator.__file__).parent)
NOT_OURS = str(Path(OURS) / "testing")  # the virtual loop is no part of what a user runs
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
WARM = 20  # calls, or streams, before the counted ones: what is made once, and the freelists
FEW, MANY = 10, 20  # calls, or pieces: the difference is what one costs
HELD = 500  # calls under way at once
NEVER_EXPLORES = LeastLatency(explore_every=10**9)  # which it does at random


class Instant(BaseProvider):
    async def complete(self, request):
        return Completion("answer")


class Held(BaseProvider):
    async def complete(self, request):
        await asyncio.get_running_loop().create_future()


class InstantStream(BaseProvider):
    pieces = FEW

    async def open_stream(self, request):
        for _ in range(self.pieces):
            yield TextDelta("x")
        yield Finished(Completion(""))


def router(
    cls: type[BaseProvider], strategy: str | RoutingStrategy = "round-robin", count: int = 3, **options: Any
) -> Router:
    return Router(strategy, [cls(ProviderConfig(name=f"p{n}")) for n in range(count)], seed=1, **options)


class Counts:
    """Counts what happens in our files while it is on."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.by_code: Counter[CodeType] = Counter()
        self._known: dict[CodeType, bool] = {}

    def _ours(self, frame: FrameType | None) -> bool:
        if frame is None:
            return False
        code = frame.f_code
        if code not in self._known:
            file = code.co_filename
            self._known[code] = file.startswith(OURS) and not file.startswith(NOT_OURS)
        return self._known[code]

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if (event == "c_call" and self._ours(frame)) or (
            event == "call" and (self._ours(frame) or self._ours(frame.f_back))
        ):
            self.found["calls"] += 1

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if event == "opcode":
            self.found["instructions"] += 1
            self.by_code[frame.f_code] += 1
        elif event == "call":
            if not self._ours(frame):
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._trace

    @contextmanager
    def calls(self) -> Iterator[None]:
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    @contextmanager
    def instructions(self) -> Iterator[None]:
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)


async def repeated(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        await call()


async def listened(stream: Callable[[], Any]) -> None:
    async for _ in stream():
        pass


async def cost(few: Callable[[], Any], many: Callable[[], Any]) -> dict[str, Any]:
    """What one more costs: the difference between ``MANY`` and ``FEW`` of them; instructions by function too."""
    found = {}
    for kind in ("calls", "instructions"):
        totals, by_code = [], []
        for run in (few, few, many):  # the first is not counted: 3.13 changes the code it is to trace as it goes
            counts = Counts()
            work = run()
            with getattr(counts, kind)():
                await work
            totals.append(counts.found[kind])
            by_code.append(counts.by_code)
        each = (totals[2] - totals[1]) / (MANY - FEW)
        found[kind] = int(each) if each.is_integer() else each
    by_code[2].subtract(by_code[1])
    found["functions"] = {
        f"{code.co_qualname} ({Path(code.co_filename).relative_to(OURS)})": n / (MANY - FEW)
        for code, n in by_code[2].most_common() if n
    }
    return found


async def of_a_call(call: Callable[[], Any], providers: int = 3) -> dict[str, Any]:
    await repeated(call, WARM + providers)
    return await cost(lambda: repeated(call, FEW), lambda: repeated(call, MANY))


async def of_a_piece(open_: Callable[[], Any], set_pieces: Callable[[int], None]) -> dict[str, Any]:
    def run(pieces: int) -> Any:
        set_pieces(pieces)
        return listened(open_)

    await repeated(lambda: run(FEW), WARM)
    return await cost(lambda: run(FEW), lambda: run(MANY))


async def of_calls_under_way() -> dict[str, float]:
    """Blocks of memory per call that waits for its provider, its task included."""
    routed = router(Held)

    async def hold() -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        tasks = [asyncio.ensure_future(routed.route("Hi")) for _ in range(HELD)]
        await asyncio.sleep(0)
        after = sys.getallocatedblocks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return after - before

    await hold()
    return {"blocks": round(await hold() / HELD, 1)}


def over_http() -> tuple[Router, Callable[[str, int], None]]:
    """A router whose provider speaks OpenAI's format over a transport without a socket."""
    head = b'{"id":"1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":'
    whole = (
        b'{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":'
        b'{"role":"assistant","content":"answer"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}'
    )
    state = {"pieces": FEW, "in one read": False}

    async def chunks():
        piece = b"data: " + head + b'{"content":"x"}}]}\n\n'
        if state["in one read"]:
            yield piece * state["pieces"]
        else:
            for _ in range(state["pieces"]):
                yield piece
        yield b"data: " + head + b'{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    def handle(request: httpx.Request) -> httpx.Response:
        if b'"stream":true' in request.content:
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=chunks())
        return httpx.Response(200, headers={"content-type": "application/json"}, content=whole)

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    config = ProviderConfig(name="alpha", base_url="https://alpha.example/v1", api_key="none", model="m")
    return Router(providers=[OpenAICompatibleProvider(config, http_client=client)], seed=1), state.__setitem__


async def measure() -> dict[str, dict[str, Any]]:
    """Every figure there is a budget for."""
    found = {}
    plain = {
        "call, round-robin": router(Instant), "call, least-latency": router(Instant, NEVER_EXPLORES),
        "call, round-robin, 100 providers": router(Instant, count=100),
        "call, one listener": router(Instant, listeners=[lambda event: None]),
    }
    http, set_http = over_http()
    for name, routed in {**plain, "call, OpenAI's format": http}.items():
        found[name] = await of_a_call(lambda routed=routed: routed.route("Hi"), 100 if "100" in name else 3)
    found["call under way"] = await of_calls_under_way()
    streamed = router(InstantStream)

    def set_pieces(pieces: int) -> None:
        InstantStream.pieces = pieces

    set_pieces(1)
    found["stream of one piece"] = await of_a_call(lambda: listened(lambda: streamed.stream("Hi")))
    found["piece, stream"] = await of_a_piece(lambda: streamed.stream("Hi"), set_pieces)
    found["piece, route_stream"] = await of_a_piece(lambda: streamed.route_stream("Hi"), set_pieces)
    found["piece, OpenAI's format"] = await of_a_piece(
        lambda: http.route_stream("Hi"), lambda pieces: set_http("pieces", pieces)
    )
    set_http("in one read", True)
    found["piece of many in one read"] = await of_a_piece(
        lambda: http.route_stream("Hi"), lambda pieces: set_http("pieces", pieces)
    )
    return found


async def growth() -> None:
    """Print what a call costs under each strategy, by the number of providers."""
    for strategy in BUILT_IN:
        cells = []
        for count in (1, 10, 100):
            routed = router(Instant, strategy, count)
            found = await of_a_call(lambda routed=routed: routed.route("Hi"), count)
            cells.append(f"{count} providers: {found['calls']:5.0f} calls {found['instructions']:6.0f} instructions")
        print(f"{strategy:16} {'   '.join(cells)}")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def without_functions(found: dict[str, Any]) -> dict[str, Any]:
    return {kind: value for kind, value in found.items() if kind != "functions"}


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Each figure that is not the stored one, in words.

    Calls are compared exactly; instructions within half a percent and blocks within a half, since the compiler and the
    runtime of another release of the same version may differ a little.
    """
    told = []
    for name in dict.fromkeys((*stored, *found)):
        old, new = stored.get(name, {}), found.get(name, {})
        for kind in dict.fromkeys((*old, *new)):
            was, now = old.get(kind), new.get(kind)
            allowed = {"calls": 0.0, "instructions": 0.005 * (was or 0), "blocks": 0.5}[kind]
            if was is None or now is None or abs(now - was) > allowed + 1e-9:
                told.append(f"{name}: {kind} {was} -> {now}")
    return told


def update(stored: dict[str, Any], version: str, found: dict[str, Any], reason: str) -> None:
    changed = differences(stored["budget"].get(version, {}), found)
    if changed:
        stored["budget"][version] = found
        stored["changes"].append({"python": version, "why": reason, "what": changed})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures, and nothing else")
    parser.add_argument("--update", metavar="REASON", help="store the figures, with the reason of the change")
    parser.add_argument("--python", nargs="*", default=[], help="other versions to be counted and stored too")
    parser.add_argument("--functions", metavar="FIGURE", help="show the instructions of one figure by function")
    parser.add_argument("--strategies", action="store_true", help="show how they grow with the providers")
    options = parser.parse_args()
    if options.json:
        print(json.dumps({VERSION: {name: without_functions(found) for name, found in run(measure()).items()}}))
        return
    if options.strategies:
        run(growth())
        return
    if options.functions:
        for name, instructions in run(measure())[options.functions]["functions"].items():
            print(f"{instructions:8.1f}  {name}")
        return
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"budget": {}, "changes": []}
    for python in (sys.executable, *options.python):
        out = subprocess.run([python, __file__, "--json"], capture_output=True, text=True, check=True).stdout
        for version, found in json.loads(out).items():
            print(f"Python {version}")
            for name, figures in found.items():
                print(f"    {name:34} " + "  ".join(f"{kind} {value}" for kind, value in figures.items()))
            print("\n".join(differences(stored["budget"].get(version, {}), found)) or "    as stored")
            if options.update:
                update(stored, version, found, options.update)
    if options.update:
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
        put(BUDGET, budget_table(stored["budget"]))


if __name__ == "__main__":
    main()
