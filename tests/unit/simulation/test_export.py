"""What a real run has written about itself becomes the timings of a modelled one."""

from __future__ import annotations

import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import InvalidRequestError, RetryPolicy, Router
from orchestrator.providers import MockProvider, ProviderConfig
from orchestrator.simulation import Scenario, ScenarioError, World, simulate
from orchestrator.simulation.trace import load_records, traces_of
from orchestrator.telemetry import LoggingListener, OpenTelemetryListener
from orchestrator.testing import SimulatedProvider
from orchestrator.testing.faults import Status
from unit.simulation.worlds import FAST

ANSWER = "one two three four five six seven eight"


class Lines(logging.Handler):
    """Every record as a line of JSON, as any formatter for a log collector writes it."""

    def __init__(self):
        super().__init__()
        self.written = ["{}"]  # somebody else's line

    def emit(self, record):
        fields = {name: value for name, value in vars(record).items() if name.startswith("llm_")}
        self.written.append(json.dumps({"timestamp": record.created, "message": record.getMessage(), **fields}))


async def real_run():
    """Four requests over HTTP; alpha fails the second one, beta answers it. Spans and log lines."""
    exporter, tracers, lines = InMemorySpanExporter(), TracerProvider(), Lines()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    logger = logging.getLogger("test_export")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [lines]
    listeners = [OpenTelemetryListener(tracer_provider=tracers), LoggingListener(logger)]
    async with (
        SimulatedProvider("openai", name="alpha", answer=ANSWER, latency=0.02, tokens_per_second=400) as alpha,
        SimulatedProvider("openai", name="beta", answer=ANSWER, latency=0.04, tokens_per_second=400) as beta,
        Router("first-available", [alpha.provider(), beta.provider()], listeners=listeners,
               retry=RetryPolicy(max_retries=0)) as router,
    ):
        await router.route("Plain")
        alpha.fail_next(Status(500))
        await router.route("Failed over")
        for _ in range(2):
            assert "".join([piece async for piece in router.route_stream("Streamed")]) == ANSWER
    return exporter.get_finished_spans(), lines.written


def otlp(spans):
    """As the OTLP exporters and the collector's file exporter write it."""
    def told(value):
        kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
        if type(value) not in kinds:
            return {"arrayValue": {"values": [told(each) for each in value]}}
        return {kinds[type(value)]: str(value) if type(value) is int else value}

    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "orchestrator"}, "spans": [{
        "traceId": f"{span.context.trace_id:032x}", "spanId": f"{span.context.span_id:016x}",
        **({"parentSpanId": f"{span.parent.span_id:016x}"} if span.parent else {}), "name": span.name, "kind": 3,
        "startTimeUnixNano": str(span.start_time), "endTimeUnixNano": str(span.end_time),
        "attributes": [{"key": key, "value": told(value)} for key, value in span.attributes.items()],
        "status": {"code": 2} if span.status.status_code.name == "ERROR" else {},
    } for span in spans]}]}]}


def scenario(file, *names):
    providers = [{"name": name, **FAST} for name in names]
    fields = {"name": "recorded", "duration_s": 50, "traffic": {"rate_rps": 2, "completion_tokens": {"median": 8}}}
    return Scenario.model_validate({**fields, "providers": providers, "trace": file})


def written(tmp_path, text):
    file = tmp_path / "export.jsonl"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.real_time
async def test_spans_of_a_real_run_become_its_timings(tmp_path):
    spans, _ = await real_run()
    per_line = "\n".join(json.dumps(otlp([span])) for span in spans)  # the collector writes a line per batch
    for text in (json.dumps(otlp(spans), indent=1), per_line, "\n".join(span.to_json() for span in spans)):
        records = load_records(written(tmp_path, text))
        assert [(record.provider, record.ok) for record in sorted(records, key=lambda record: record.at)] == [
            ("alpha", True), ("alpha", False), ("beta", True), ("alpha", True), ("alpha", True),
        ]
        plain, failed, over, *streamed = sorted(records, key=lambda record: record.at)
        assert abs(plain.at - spans[0].start_time / 1e9) < 1e-3
        assert 0.03 < plain.duration < 1
        assert failed.duration < 0.5
        assert (plain.first_token, failed.completion_tokens) == (None, 0)
        assert plain.completion_tokens == over.completion_tokens == 8
        for record in streamed:
            assert 0.02 <= record.first_token < record.duration
            assert record.prompt_tokens > 0
    run = simulate(scenario(tmp_path / "export.jsonl", "alpha", "beta"))
    assert min(run.requests.latency) < 0.5 < max(run.requests.latency)  # 1 s to the first token is the model's own


@pytest.mark.real_time
async def test_log_lines_of_a_real_run_become_the_timings_of_those_with_one_attempt(tmp_path):
    spans, lines = await real_run()
    records = load_records(written(tmp_path, "\n".join(lines)))
    assert [(record.provider, record.ok) for record in records] == [("alpha", True)] * 3
    assert abs(records[0].at - spans[0].start_time / 1e9) < 0.05
    assert records[1].first_token is not None
    assert records[0].completion_tokens == 8
    assert traces_of(scenario(tmp_path / "export.jsonl", "alpha"))["alpha"].always_ok


async def test_the_callers_fault_says_nothing_about_a_provider(tmp_path):
    exporter, tracers, lines = InMemorySpanExporter(), TracerProvider(), Lines()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    logger = logging.Logger("mine", logging.INFO)  # noqa: LOG001  # of nobody else
    logger.addHandler(lines)
    provider = MockProvider(ProviderConfig(name="only"), script=[InvalidRequestError("no")])
    listeners = [OpenTelemetryListener(tracer_provider=tracers), LoggingListener(logger)]
    async with Router(providers=[provider], listeners=listeners) as router:
        with pytest.raises(InvalidRequestError):
            await router.route("x")
    for text in (json.dumps(otlp(exporter.get_finished_spans())), "\n".join(lines.written)):
        assert load_records(written(tmp_path, text)) == []


def span(attributes, *, start="2026-01-02T03:04:05.500000Z", end="2026-01-02T03:04:08Z", status="UNSET", name="1"):
    return {"name": "chat m", "context": {"trace_id": "0x1", "span_id": name}, "parent_id": None, "start_time": start,
            "end_time": end, "status": {"status_code": status}, "attributes": attributes}


def test_genai_spans_of_any_library_will_do(tmp_path):
    told = {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.usage.output_tokens": 50,
            "gen_ai.response.time_to_first_chunk": 0.5}
    bad = span({**told, "gen_ai.provider.name": "azure"}, status="ERROR", name="2")
    other = span({"http.request.method": "POST"}, name="3")
    nobody = span({"gen_ai.operation.name": "chat"}, name="4")
    records = load_records(written(tmp_path, "\n".join(map(json.dumps, (span(told), bad, other, nobody)))))
    assert [(r.provider, r.first_token, r.duration, r.completion_tokens, r.ok) for r in records] == [
        ("openai", 0.5, 2.5, 50, True), ("azure", 0.5, 2.5, 50, False),
    ]


@pytest.mark.parametrize(
    "when",
    [1767323045.5, 1767323045500, "2026-01-02T03:04:05.500Z", "2026-01-02 03:04:05,500", "2026-01-02T04:04:05.5+01:00"],
)
def test_a_log_line_may_tell_its_time_in_many_ways(tmp_path, when):
    line = {"time": when, "llm_event": "request_ended", "llm_outcome": "error", "llm_provider": "a", "llm_attempts": 1,
            "llm_duration": 2.5, "llm_error_type": "ServerError"}
    (record,) = load_records(written(tmp_path, json.dumps(line)))
    assert (record.at, record.ok) == (pytest.approx(1767323043.0), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"llm_event": "request_ended", "llm_attempts": 1, "llm_outcome": "answer"}', "a log line without a time"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "x"}]}]}]}', "cannot be read: KeyError"),
        ('{"at": 1, "provider": "a", "duration": 1}\n[1]', "line 2: expected an object"),
        ('{"at": 1, "provider": "a", "duration": 1}\n{', "line 2: not JSON"),
        ('{"at": 1, "provider": "a", "durations": 1}', "unknown field 'durations'. Did you mean 'duration'"),
        ('{"resourceSpans": []}', "no records"),
        ('{"at": 1, "provider": "gamma", "duration": 1}', "no call of any provider of the scenario; of gamma"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, text, said):
    with pytest.raises(ScenarioError, match=r"export\.jsonl") as caught:
        World(scenario(written(tmp_path, text), "alpha"))
    assert said in str(caught.value)
