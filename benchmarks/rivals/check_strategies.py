"""Asks the real litellm.Router and the model of it the same small questions: who is called, in what order, how it ends.

    python benchmarks/rivals/check_strategies.py --python PATH      # of an environment with requirements-litellm.txt

The real one runs in that environment, on the machine's clock; the model here, in virtual time. Exit code 1 when they
differ. Only what does not depend on chance is compared; of weighted choice, the share of the first of two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OK = {"seconds": 0.01, "tokens": 10}
FAST, SLOW = {"seconds": 0.05, "tokens": 10}, {"seconds": 0.4, "tokens": 10}
TOKENS = 10  # of a scripted prompt


def case(strategy: str, a: dict[str, Any], b: dict[str, Any] = OK, requests: int = 3, **more: Any) -> dict[str, Any]:
    return {"strategy": strategy, "a": a, "b": b, "requests": requests, **more}


CASES = {
    "429 cools at once": case("least-busy", {"status": 429}),
    "429 by both: no retry without a healthy one": case("least-busy", {"status": 429}, {"status": 429}),
    "500 is retried where it failed, until more than half of five": case("least-busy", {"status": 500}),
    "503 the same": case("least-busy", {"status": 503}),
    "401 cools at once, the other one answers": case("least-busy", {"status": 401}),
    "400 is not retried and cools nothing": case("least-busy", {"status": 400}),
    "408 is retried as a 500": case("least-busy", {"status": 408}),
    "no connection": case("least-busy", {"refuses": True}),
    "two in flight go to two": case("least-busy", SLOW, SLOW, requests=4, together=True),
    "latency: each once, then the faster": case("latency-based-routing", SLOW, FAST, requests=6, set_of_first=2),
    "latency: a time-out counts 1000 s": case("latency-based-routing", {"status": 408}, FAST, requests=5, last=3),
    "latency: another failure counts nothing": case("latency-based-routing", {"status": 500}, FAST, requests=5, last=2),
    "usage: the fewest tokens": case("usage-based-routing-v2", OK, {"seconds": 0.01, "tokens": 50}, requests=6, last=3),
    "shuffle: by weight": case("simple-shuffle", OK, requests=600, weights=[3, 1], share=True),
}


def seen(case: dict[str, Any], calls: list[list[str]], ends: list[bool]) -> Any:
    """What of it can be compared."""
    if case.get("share"):
        return sum(names == ["a"] for names in calls) / len(calls)
    if case.get("set_of_first"):
        return [sorted(calls[: case["set_of_first"]]), calls[case["set_of_first"]:]]
    pairs = [[names, end] for names, end in zip(calls, ends, strict=True)]
    return sorted(pairs) if case.get("together") else pairs[-case.get("last", len(pairs)):]


async def played(case: dict[str, Any], ask: Any, pause: float) -> Any:
    """``ask(number)`` makes a request and returns whom it called and whether it was answered."""
    if case.get("together"):
        asked = [asyncio.ensure_future(later(ask, n, 0.05 * n)) for n in range(case["requests"])]
        results = await asyncio.gather(*asked)
    else:
        results = []
        for number in range(case["requests"]):
            results.append(await ask(number))
            await asyncio.sleep(0.0 if case.get("share") else pause)
    return seen(case, [calls for calls, _ in results], [end for _, end in results])


async def later(ask: Any, number: int, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return await ask(number)


async def real(case: dict[str, Any]) -> Any:
    import contextvars

    import httpx
    import litellm

    mine: contextvars.ContextVar[list[str]] = contextvars.ContextVar("mine")
    kinds = {
        400: litellm.BadRequestError, 401: litellm.AuthenticationError, 429: litellm.RateLimitError,
        500: litellm.InternalServerError, 503: litellm.ServiceUnavailableError, 408: litellm.Timeout,
    }

    class Scripted(litellm.CustomLLM):
        async def acompletion(self, model: str, model_response: Any, logging_obj: Any, **_: Any) -> Any:
            mine.get().append(model)
            logging_obj.pre_call(input="", api_key="")  # what litellm's own providers do, and least-busy counts by
            script = case[model]
            if status := script.get("status"):
                more = {} if status == 408 else {
                    "response": httpx.Response(status, request=httpx.Request("POST", "http://localhost"))
                }
                raise kinds[status]("scripted", model=model, llm_provider="scripted", **more)
            await asyncio.sleep(script["seconds"])
            model_response.choices[0].message.content = "ok"
            model_response.usage = litellm.Usage(
                prompt_tokens=TOKENS, completion_tokens=script["tokens"], total_tokens=TOKENS + script["tokens"]
            )
            return model_response

    lists = "callbacks", "success_callback", "failure_callback", "_async_success_callback", "_async_failure_callback"
    for kind in lists:
        getattr(litellm, kind).clear()  # there may be only so many, and every router adds its own
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.custom_provider_map = [{"provider": "scripted", "custom_handler": Scripted()}]
    rows = []
    for name, weight in zip("ab", case.get("weights", [1, 1]), strict=True):
        params = {"model": f"scripted/{name}", "weight": weight}
        if case[name].get("refuses"):
            params = {
                "model": "openai/refused", "api_base": "http://127.0.0.1:9/v1", "api_key": "none", "max_retries": 0,
            }
        rows.append({"model_name": "group", "litellm_params": params, "model_info": {"id": name}})
    router = litellm.Router(model_list=rows, routing_strategy=case["strategy"])

    class Heard(litellm.integrations.custom_logger.CustomLogger):
        def log_pre_api_call(self, model: str, messages: Any, kwargs: Any) -> None:
            if model == "refused":
                mine.get().append("a")

    litellm.callbacks.append(Heard())

    async def ask(number: int) -> tuple[list[str], bool]:
        calls: list[str] = []
        mine.set(calls)
        try:
            await router.acompletion(model="group", messages=[{"role": "user", "content": f"Request {number}"}])
        except Exception:
            return calls, False
        return calls, True

    return await played(case, ask, 0.15)


def modelled(case: dict[str, Any]) -> Any:
    from types import SimpleNamespace

    from orchestrator import Completion, ProviderConfig, Request, Usage
    from orchestrator.core.errors import (
        AuthenticationError,
        ConnectionFailedError,
        InvalidRequestError,
        OrchestratorError,
        RateLimitError,
        ServerError,
    )
    from orchestrator.core.errors import TimeoutError as LimitError
    from orchestrator.providers import BaseProvider
    from orchestrator.testing import VirtualTimeLoop

    sys.path.insert(0, str(Path(__file__).parent))
    from strategies import LatencyBased, LeastBusy, LiteLLM, SimpleShuffle, UsageBased

    errors = {400: InvalidRequestError, 401: AuthenticationError, 429: RateLimitError, 408: LimitError}
    picks = {
        "least-busy": LeastBusy, "latency-based-routing": LatencyBased, "usage-based-routing-v2": UsageBased,
        "simple-shuffle": SimpleShuffle,
    }

    class Scripted(BaseProvider):
        async def complete(self, request: Request) -> Completion:
            calls[request.prompt].append(self.name)
            script = case[self.name]
            if script.get("refuses"):
                raise ConnectionFailedError("scripted")
            if status := script.get("status"):
                raise errors.get(status, ServerError)("scripted", status_code=status)
            await asyncio.sleep(script["seconds"])
            return Completion("ok", usage=Usage(TOKENS, script["tokens"]))

    calls: dict[Any, list[str]] = {}

    async def run() -> Any:
        weights = zip("ab", case.get("weights", [1, 1]), strict=True)
        providers = [Scripted(ProviderConfig(name=name, weight=weight)) for name, weight in weights]
        world = SimpleNamespace(
            providers=providers, seed=1, scenario=SimpleNamespace(router=SimpleNamespace(timeouts=None))
        )
        router = LiteLLM(world, picks[case["strategy"]])

        async def ask(number: int) -> tuple[list[str], bool]:
            prompt = f"Request {number}"
            calls[prompt] = []
            try:
                await router.complete(prompt)
            except OrchestratorError:
                return calls[prompt], False
            return calls[prompt], True

        return await played(case, ask, 0.15)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="an interpreter that has litellm")
    parser.add_argument("--case", action="append", choices=list(CASES), metavar="NAME", help="may be repeated")
    parser.add_argument("--real", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.case or list(CASES)
    if options.real:
        for name in names:
            print("RESULT " + json.dumps([name, asyncio.run(real(CASES[name]))]), flush=True)
        return
    if not options.python:
        parser.error("--python is needed")
    asked = [argument for name in names for argument in ("--case", name)]
    out = subprocess.run(
        [options.python, __file__, "--real", *asked], capture_output=True, text=True, check=False,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # or it asks the network for prices
    )
    found = dict(json.loads(line[7:]) for line in out.stdout.splitlines() if line.startswith("RESULT "))
    differ = 0
    for name in names:
        theirs, ours = found.get(name, out.stderr[-500:]), modelled(CASES[name])
        same = abs(ours - theirs) < 0.06 if isinstance(theirs, float) else ours == theirs
        differ += not same
        print(f"{'same  ' if same else 'DIFFER'} {name}" + ("" if same else f"\n  real  {theirs}\n  model {ours}"))
    print(f"{len(names) - differ} of {len(names)} the same")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
