"""The commands and their options. Each imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from orchestrator.cli._ask import Question
    from orchestrator.core.types import Completion
    from orchestrator.providers.base import BaseProvider

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(
    name="orchestrator",
    help="Answers a prompt as long as any configured LLM provider can.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # they may show local variables, and a key is one
)

Plain = Annotated[bool, typer.Option("--plain", "--no-color", help="Plain text: no colours, nothing that moves.")]
Strategy = Annotated[str, typer.Option(help="round-robin, weighted, random, first-available or least-latency.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from orchestrator import __version__

        typer.echo(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def ask(  # noqa: PLR0917  # options, which typer gives by name
    prompt: Annotated[str | None, typer.Argument(help="The prompt; '-' or none: read it from standard input.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Instead of each provider's own model.")] = None,
    provider: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Ask only this; repeatable.")] = None,
    strategy: Strategy = "first-available",
    system: Annotated[str | None, typer.Option(help="A system message.", metavar="TEXT")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, metavar="0-2")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Limit of the answer's length.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, metavar="S", help="Seconds for everything.")] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Wait for the whole answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plain: Plain = False,
) -> None:
    """Ask one prompt and stream the answer.

    Asks the providers whose keys are in the environment (see: orchestrator providers).
    Without any key it asks three simulated ones on this machine.
    The answer goes to standard output, how it came about to standard error.
    """
    from orchestrator.cli._ask import Output, Question
    from orchestrator.cli._render import answer_json, console, error_json, error_lines, summary_line
    from orchestrator.core.config import GenerationParams
    from orchestrator.core.errors import OrchestratorError

    knobs = GenerationParams(temperature=temperature, max_tokens=max_tokens)
    question = Question(
        _prompt(prompt), system, model, knobs if knobs.given() else None, _known(strategy), timeout, not no_stream
    )
    notes = console(stderr=True, plain=plain)
    out = Output(sys.stdout)
    try:
        answer = _run(_asking(question, provider or [], (lambda _: None) if as_json else out, notes.print))
    except OrchestratorError as error:
        out.end_line()
        if as_json:
            typer.echo(json.dumps(error_json(error), ensure_ascii=False))
        else:
            for line in error_lines(error):
                notes.print(line)
        raise typer.Exit(1) from None
    finally:
        out.end_line()
    if as_json:
        typer.echo(json.dumps(answer_json(answer), ensure_ascii=False))
    else:
        notes.print(summary_line(answer))


def _asking(
    question: Question, names: list[str], write: Callable[[str], None], tell: Callable[..., None]
) -> Coroutine[Any, Any, Completion]:
    """The providers of the environment, or the embedded ones, restricted to ``names``."""
    from orchestrator.cli._ask import ask, ask_simulated
    from orchestrator.cli._providers import survey
    from orchestrator.cli._simulated import ANNOUNCEMENT, NAMES

    found = survey(os.environ)
    for item in found:
        if item.problem is not None:
            tell(f"{item.service.name} is left out: {item.problem}", style="yellow")
    ready: dict[str, BaseProvider] = {item.service.name: item.provider for item in found if item.provider is not None}
    known = list(ready) or NAMES
    for name in names:
        if name not in known:
            needs = next((" and ".join(item.service.needs) for item in found if item.service.name == name), None)
            hint = f"it needs {needs}" if needs else f"there is: {', '.join(known)}"
            raise typer.BadParameter(f"{name!r} is not configured; {hint}", param_hint="'--provider'")
    if not ready:
        tell(ANNOUNCEMENT, style="dim")
        return ask_simulated(question, names, write)
    chosen = [provider for name, provider in ready.items() if not names or name in names]
    return ask(question, chosen, write)


def _prompt(argument: str | None) -> str:
    """The argument, or what stands in standard input; undecodable bytes become question marks."""
    if argument is None and sys.stdin.isatty():
        raise typer.BadParameter("there is none; give one, or pipe it in", param_hint="'PROMPT'")
    if argument is None or argument == "-":
        argument = sys.stdin.buffer.read().decode(errors="replace")
    if not argument.strip():
        raise typer.BadParameter("it is empty", param_hint="'PROMPT'")
    return argument.encode(errors="replace").decode()


def _known(strategy: str) -> str:
    from orchestrator.strategies.registry import resolve

    try:
        resolve(strategy)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="'--strategy'") from None
    return strategy


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; Ctrl-C cancels it, lets it clean up, and is exit code 130."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: not on Windows."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, metavar="S", help="Length of the run.")] = 30,
    rate: Annotated[float, typer.Option(min=1, max=500, metavar="N", help="Requests per second.")] = 20,
    strategy: Strategy = "least-latency",
    seed: Annotated[int | None, typer.Option(help="Makes random choices repeatable.", metavar="N")] = None,
    plain: Plain = False,
) -> None:
    """Watch a steady load survive an outage.

    Three simulated providers are asked over real HTTP. One is killed: its breaker
    opens and the traffic moves. It comes back: it is probed and ramped up.
    """
    from orchestrator.cli._demo import Demo, Plan, run_simulated
    from orchestrator.cli._render import console
    from orchestrator.cli._views import LiveView, PlainView

    plan = Plan(seconds, rate, _known(strategy), seed)
    out = console(plain=plain)
    moves = out.is_terminal and not plain
    with ExitStack() as stack:
        view = stack.enter_context(LiveView(out, plan)) if moves else PlainView(sys.stdout, plan)
        run = Demo(plan, view)
        try:
            _run(run_simulated(run))
        finally:
            stack.close()
            if run.board is not None:
                out.print(run.board.summary(), style="bold")
    if run.board is not None and run.board.errors:
        raise typer.Exit(1)


@app.command()
def simulate(  # noqa: PLR0917  # options, which typer gives by name
    files: Annotated[list[Path], typer.Argument(help="Scenarios: TOML files.", metavar="FILE...", show_default=False)],
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What to compare; repeatable. Default: that of Router.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of each scenario's own.", metavar="N")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a field of the file; repeatable.")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE;...", help="Play it also with these changes; repeatable."),
    ] = None,
    assertion: Annotated[
        list[str] | None,
        typer.Option("--assert", metavar="TEXT", help="'p99 <= 8 s': exit with 1 if a run is worse; repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT", dir_okay=False, help="Write a page with charts.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", dir_okay=False, help="Write all figures.")
    ] = None,
    plain: Plain = False,
) -> None:
    """Compare strategies and policies on modelled providers.

    Plays scenario files in virtual time and prints what callers would have met.
    Nobody is asked anything over the network.
    """
    from orchestrator.cli._render import console
    from orchestrator.cli._simulate import DEFAULT_STRATEGY, Outputs, planned, run

    for path in (html, json_out):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"there is no directory {path.parent}", param_hint="'--html' / '--json'")
    notes = console(stderr=True, plain=plain)
    names = [_known(name) for name in strategy or [DEFAULT_STRATEGY]]
    try:
        plan = planned(
            files, names, seed=seed, assertions=assertion or (), changes=change or (), comparisons=compare or ()
        )
    except ValueError as error:
        notes.print(str(error), style="red")
        raise typer.Exit(2) from None
    try:
        kept = run(plan, Outputs(console(plain=plain), notes, html, json_out, moves=notes.is_terminal and not plain))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except OSError as error:  # of the two files
        notes.print(f"cannot be written: {error}", style="red")
        raise typer.Exit(1) from None
    if not kept:
        raise typer.Exit(1)


@app.command()
def providers(plain: Plain = False) -> None:
    """Show what the environment configures.

    <NAME>_MODEL and <NAME>_BASE_URL override a provider's model and address.
    GigaChat also reads GIGACHAT_SCOPE, _AUTH_URL and _CA_BUNDLE_FILE.
    """
    from orchestrator.cli._providers import survey
    from orchestrator.cli._render import console, survey_lines

    out = console(plain=plain)
    for line in survey_lines(survey(os.environ)):
        out.print(line)
