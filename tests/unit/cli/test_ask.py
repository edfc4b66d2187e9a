"""``orchestrator ask``: what goes where, what is said about failures, and how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import signal

import pytest
from typer.testing import CliRunner

from orchestrator import (
    AuthenticationError,
    Completion,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    StreamInterruptedError,
    TimeoutError,
    Usage,
)
from orchestrator.cli import _app
from orchestrator.cli._ask import Output, Question, ask
from orchestrator.cli._providers import Found, services
from orchestrator.cli._render import error_lines, seconds, summary_line
from orchestrator.core.types import Attempt
from orchestrator.providers.base import BaseProvider
from orchestrator.providers.mock import Answer, BrokenStream, Fail
from support import mock

USAGE = Usage(prompt_tokens=3, completion_tokens=4)
OVERLOADED = OverloadedError("too much to do", status_code=503)


@pytest.fixture
def command(monkeypatch):
    """Runs ``ask`` over these providers, as if the environment had configured them."""

    def run(*arguments, providers=(), stdin=None):
        ready = {provider.name: provider for provider in providers}
        found = [Found(service, ready.get(service.name)) for service in services()]
        monkeypatch.setattr("orchestrator.cli._providers.survey", lambda _: found)
        return CliRunner().invoke(_app.app, ["ask", *arguments], input=stdin)

    return run


# ------------------------------------------------------------------ the routed prompt


async def test_the_text_is_written_as_it_comes_and_the_providers_are_closed():
    closed = []

    class Slow(BaseProvider):
        async def generate_stream(self, prompt, params=None):
            for piece in ("one ", "two"):
                await asyncio.sleep(1)
                yield piece

        async def aclose(self):
            closed.append(self.name)

    written = []
    at = asyncio.get_running_loop().time
    answer = await ask(Question("x"), [Slow(mock("a").config)], lambda text: written.append((at(), text)))
    assert written == [(1.0, "one "), (2.0, "two")]
    assert (answer.text, answer.time_to_first_token) == ("one two", 1.0)
    assert closed == ["a"]


async def test_without_streaming_the_text_is_written_once():
    written = []
    await ask(Question("x", stream=False), [mock("a", Answer("one two", gap=1))], written.append)
    assert written == ["one two"]


async def test_a_system_message_and_a_model_reach_the_provider():
    provider = mock("a", model="own")
    await ask(Question("x", system="be brief", model="other"), [provider], lambda _: None)
    assert [(m.role, m.text) for m in provider.calls[0].messages] == [("system", "be brief"), ("user", "x")]
    assert provider.config.model == "other"


# ------------------------------------------------------------------ the command


def test_the_answer_goes_to_stdout_and_how_it_came_about_to_stderr(command):
    result = command("x", providers=[mock("openai", Answer("Because.", usage=USAGE), model="m")])
    assert result.stdout == "Because.\n"
    assert result.exit_code == 0
    line = result.stderr.strip()
    assert line.startswith("openai · m · first token ")
    assert line.endswith("· 7 tokens (3 in, 4 out) · 1 attempt")


def test_a_failed_attempt_stands_in_the_last_line(command):
    result = command("x", providers=[mock("openai", Fail(OVERLOADED), max_retries=0), mock("groq", "yes")])
    assert result.stdout == "yes\n"
    assert "2 attempts: openai: OverloadedError HTTP 503 → groq" in result.stderr


def test_options_reach_the_provider(command):
    provider = mock("openai")
    options = ("--temperature", "0.5", "--max-tokens", "7", "--no-stream", "--model", "n")
    result = command("x", *options, providers=[provider])
    assert result.exit_code == 0
    request = provider.calls[0]
    assert request.params.given() == {"temperature": 0.5, "max_tokens": 7}
    assert not request.stream
    assert provider.config.model == "n"


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_is_read_from_standard_input(command, arguments):
    provider = mock("openai")
    command(*arguments, providers=[provider], stdin="what is this?\n")
    assert provider.calls[0].prompt == "what is this?\n"


def test_an_empty_prompt_is_refused(command):
    result = command(providers=[mock("openai")], stdin=" \n")
    assert result.exit_code == 2
    assert "empty" in result.stderr


def test_a_terminal_is_not_read_from_unless_asked(monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(_app.typer.BadParameter, match="there is none"):
        _app._prompt(None)


def test_only_the_named_providers_are_asked(command):
    first, second = mock("openai"), mock("groq")
    command("x", "--provider", "groq", providers=[first, second])
    assert (len(first.calls), len(second.calls)) == (0, 1)


@pytest.mark.parametrize(("name", "hint"), [("groq", "needs GROQ_API_KEY"), ("nobody", "there is: openai")])
def test_a_provider_that_is_not_configured_is_refused_with_what_it_needs(command, name, hint):
    result = command("x", "--provider", name, providers=[mock("openai")])
    assert result.exit_code == 2
    assert hint in " ".join(result.stderr.replace("│", " ").split())


def test_an_unknown_strategy_is_refused_with_the_known_ones(command):
    result = command("x", "--strategy", "fastest", providers=[mock("openai")])
    assert result.exit_code == 2
    assert "least-latency" in result.stderr


def test_a_timeout_of_nothing_is_refused_as_an_option(command):
    result = command("x", "--timeout", "0", providers=[mock("openai")])
    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.stderr


def test_a_half_configured_provider_is_named_and_left_out(monkeypatch):
    monkeypatch.setenv("YANDEX_API_KEY", "not-a-real-key")
    monkeypatch.delenv("YANDEX_FOLDER_ID", raising=False)
    result = CliRunner().invoke(_app.app, ["ask", "x", "--provider", "nobody"])
    assert "yandex is left out: YANDEX_FOLDER_ID is not set\n" in result.stderr
    assert "not-a-real-key" not in result.output


# ------------------------------------------------------------------ JSON


def test_json_is_one_object_and_nothing_else(command):
    providers = [mock("openai", Fail(OVERLOADED), max_retries=0), mock("groq", Answer("yes", usage=USAGE), model="m")]
    result = command("x", "--json", providers=providers)
    answer = json.loads(result.stdout)
    assert (answer["text"], answer["provider"], answer["model"]) == ("yes", "groq", "m")
    assert answer["usage"]["completion_tokens"] == 4
    assert [attempt["error"] and attempt["error"]["status_code"] for attempt in answer["attempts"]] == [503, None]
    assert result.stderr == ""


def test_a_failure_in_json_has_the_error_its_attempts_and_what_had_come(command):
    result = command("x", "--json", providers=[mock("openai", BrokenStream(["so ", "far"]))])
    answer = json.loads(result.stdout)
    assert answer["error"]["type"] == "StreamInterruptedError"
    assert answer["partial"] == "so far"
    assert len(answer["attempts"]) == 1
    assert result.exit_code == 1


# ------------------------------------------------------------------ failures


def test_an_error_is_one_line_and_a_line_for_each_attempt(command):
    limited = RateLimitError("slow down", status_code=429, retry_after=1000)
    providers = [mock("openai", Fail(OVERLOADED), max_retries=0), mock("groq", Fail(limited))]
    result = command("x", providers=providers)
    head, *attempts = result.stderr.splitlines()
    assert result.exit_code == 1
    assert result.stdout == ""
    assert head.startswith("AllProvidersFailedError: 2 attempts failed (retry after ")
    assert [line.split(" after ")[0] for line in attempts] == [
        "  1. openai  OverloadedError HTTP 503", "  2. groq    RateLimitError HTTP 429",
    ]
    assert attempts[0].endswith(": too much to do")


def test_a_request_that_is_wrong_is_said_in_one_line(command):
    result = command("x", providers=[mock("openai", Fail(InvalidRequestError("no such field", status_code=400)))])
    assert result.stderr == "InvalidRequestError: openai: no such field (HTTP 400)\n"
    assert result.exit_code == 1


def test_an_answer_that_broke_off_ends_its_line_before_the_error(command):
    result = command("x", providers=[mock("openai", BrokenStream(["half an "]))])
    assert result.stdout == "half an \n"
    assert result.output.startswith("half an \nStreamInterruptedError: openai: ")
    assert result.exit_code == 1


def test_ctrl_c_closes_the_providers_and_exits_with_130(command):
    closed = []

    class Interrupted(BaseProvider):
        async def generate(self, prompt, params=None):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(3600)

        async def aclose(self):
            closed.append(self.name)

    result = command("x", providers=[Interrupted(mock("openai").config)])
    assert (result.exit_code, closed) == (130, ["openai"])
    assert result.output == ""


# ------------------------------------------------------------------ what is written


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_no_control_characters_and_a_file_gets_them_all():
    text = "a\x1b[31mb\x9bc\td\r\n"
    terminal, file = Terminal(), io.StringIO()
    Output(terminal)(text)
    Output(file)(text)
    assert terminal.getvalue() == "a[31mbc\td\n"
    assert file.getvalue() == text


@pytest.mark.parametrize(("text", "written"), [("a", "a\n"), ("a\n", "a\n"), ("", "")])
def test_a_line_is_ended_once(text, written):
    stream = io.StringIO()
    out = Output(stream)
    out(text)
    out.end_line()
    out.end_line()
    assert stream.getvalue() == written


def attempt(number, provider, error=None):
    return Attempt(provider, None, number, 0.0, 0.5, error=error)


def test_the_same_failure_again_is_counted_and_a_retry_that_helped_is_shown():
    failed = [attempt(1, "a", OVERLOADED), attempt(2, "a", OVERLOADED), attempt(3, "a")]
    line = summary_line(Completion("x", provider="a", latency=2, attempts=tuple(failed)))
    assert line.plain == "a · total 2.00 s · tokens not told · 3 attempts: a: OverloadedError HTTP 503 ×2 → a"


def test_a_cut_answer_and_a_price_are_told():
    answer = Completion("x", provider="a", finish_reason="length", cost=0.00012, attempts=(attempt(1, "a"),))
    assert "· $0.000120 · cut at the token limit · 1 attempt" in summary_line(answer).plain


def test_which_limit_passed_is_told_and_what_a_provider_wrote_is_no_markup():
    error = AuthenticationError("[red]no\x1b[2J", provider="b")
    error.attempts = (attempt(1, "a", TimeoutError("silent", phase="first_token")), attempt(2, "b", error))
    assert [line.plain for line in error_lines(error)] == [
        "AuthenticationError: b: [red]no[2J",
        "  1. a  TimeoutError (first token) after 0.50 s: silent",
        "  2. b  AuthenticationError after 0.50 s: [red]no[2J",
    ]


def test_a_long_message_is_cut_and_a_stopped_attempt_is_no_failure():
    error = StreamInterruptedError("x")
    error.attempts = (attempt(1, "a"), attempt(2, "b", OverloadedError("y" * 1000)))
    _, first, second = (line.plain for line in error_lines(error))
    assert first == "  1. a  stopped after 0.50 s"
    assert len(second) < 260


@pytest.mark.parametrize(("value", "shown"), [
    (0.0004, "0 ms"), (0.043, "43 ms"), (0.0996, "0.10 s"), (9.99, "9.99 s"), (9.999, "10.0 s"), (75.0, "75.0 s"),
])
def test_durations_are_short(value, shown):
    assert seconds(value) == shown


# ------------------------------------------------------------------ the embedded servers


def test_without_any_key_a_prompt_is_routed_over_real_http_with_a_failover(command):
    result = command("Why is the sky blue?", "--max-tokens", "6")
    assert result.exit_code == 0
    assert result.stdout == "You asked: Why is the sky \n"
    notice, line = result.stderr.splitlines()
    assert "simulated providers on this machine" in notice
    assert line.startswith("beta · GigaChat")
    assert "cut at the token limit" in line
    assert line.endswith("4 attempts: alpha: OverloadedError HTTP 503 ×3 → beta")


def test_a_simulated_provider_can_be_asked_alone(command):
    result = command("x", "--provider", "gamma", "--max-tokens", "1")
    assert result.stderr.splitlines()[-1].startswith("gamma · ")
    assert result.stderr.endswith(" · 1 attempt\n")


def test_a_lost_race_is_told_in_the_last_line():
    from orchestrator.cli._render import summary_line

    attempts = (Attempt("slow", None, 1, 0.0, lost=True), Attempt("quick", None, 2, 1.0, hedge=True))
    line = summary_line(Completion("x", provider="quick", attempts=attempts))
    assert str(line).endswith("2 attempts: slow: too late → quick")
