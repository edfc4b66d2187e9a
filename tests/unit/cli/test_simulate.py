"""``orchestrator simulate``: tables, files, assertions and what it says of a wrong scenario."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import Router
from orchestrator.cli import _simulate
from orchestrator.cli._app import app
from orchestrator.simulation import Scenario, ScenarioError, simulate
from orchestrator.simulation.assertion import Assertion

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
SMALL = """
name = "small"
description = "one of two fails for a while"
duration_s = 5
warm_up_s = 1
slo_s = 8

[traffic]
rate_rps = 10
completion_tokens = { median = 50 }

[[providers]]
name = "alpha"
first_token = { median_s = 0.3 }
token_rate = { median_tps = 200 }
prices = { output = 4 }

[[providers.episodes]]
kind = "black_hole"
from_s = 2
until_s = 4

[[providers]]
name = "beta"
first_token = { median_s = 0.5 }
token_rate = { median_tps = 200 }
prices = { output = 4 }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    return tmp_path / "small.toml"


@pytest.fixture
def figures():
    return simulate(Scenario.parse(SMALL)).summary()


def called(*arguments):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def test_a_table_has_a_row_per_strategy_and_tells_who_answered(file):
    result = called(file, "--strategy", "round-robin", "--strategy", "first-available")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "small: one of two fails for a while"
    heading = next(line for line in lines if "strategy" in line)
    for title in ("answered %", "errors %", "p50", "p99", "attempts per request", "$ per 1 000 answers"):
        assert title in heading
    row = next(line.split() for line in lines if line.strip().startswith("first-available "))
    assert row[1:4] == ["100.00", "100.00", "0.00"]
    assert any(line.startswith("  answered under round-robin: alpha ") for line in lines)


def test_without_a_strategy_it_is_the_routers_own_default(file):
    default = inspect.signature(Router).parameters["strategy"].default
    lines = [line for line in called(file).stdout.splitlines() if line.startswith("  answered under ")]
    assert [line.partition(":")[0] for line in lines] == [f"  answered under {default}"]
    assert default == "least-latency"


def test_the_seed_changes_the_run_and_the_same_seed_does_not(file, tmp_path):
    outs = []
    for number, seed in enumerate((1, 2, 2)):
        out = tmp_path / f"{number}.json"
        assert called(file, "--seed", seed, "--json", out).exit_code == 0
        outs.append(out.read_bytes())
    assert outs[0] != outs[1] == outs[2]


def test_json_and_page_have_the_figures_of_the_table(file, tmp_path):
    html, out = tmp_path / "out.html", tmp_path / "out.json"
    result = called(file, "--html", html, "--json", out)
    assert result.exit_code == 0
    cell = json.loads(out.read_text(encoding="utf-8"))["scenarios"]["small"]["cells"]["least-latency"]
    assert cell["answered"] == 100.0
    assert f"{cell['latency']['p99']:.2f}" in result.stdout
    page = html.read_text(encoding="utf-8")
    assert f"<td>{cell['latency']['p99']:.2f}</td>" in page
    assert "alpha: black hole, 2–4 s" in page


def test_a_kept_assertion_is_silent_and_a_broken_one_is_a_line_and_exit_code_1(file):
    assert called(file, "--assert", "p99 <= 8 s", "--assert", "errors <= 0.1 %").stderr == ""
    result = called(file, "--assert", "p99 <= 8 s", "--assert", "p50 <= 1 ms")
    assert result.exit_code == 1
    assert "answered under" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("small, least-latency: p50 <= 1 ms: not kept, it is 0.")
    assert line.endswith(" s")


def test_every_strategy_and_every_change_must_keep_the_assertions_of_the_file(file):
    file.write_text('assertions = ["attempts < 1.001"]\n' + SMALL, encoding="utf-8")
    result = called(file, "--strategy", "round-robin", "--strategy", "random", "--compare", "traffic.rate_rps=11")
    assert result.exit_code == 1
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "small, round-robin", "small, random", "small, round-robin, traffic.rate_rps=11",
        "small, random, traffic.rate_rps=11",
    ]


def test_a_change_applies_to_all_runs_and_a_comparison_to_its_own(file, tmp_path):
    out = tmp_path / "out.json"
    changes = ("providers.beta.first_token.median_s=2", "slo_s=1", "description=beta is slow")
    changed = [part for change in changes for part in ("--set", change)]
    both = "traffic.rate_rps=1; router.retry.max_retries=0"
    assert called(file, *changed, "--compare", both, "--json", out).exit_code == 0
    scenario = json.loads(out.read_text(encoding="utf-8"))["scenarios"]["small"]
    assert (scenario["slo_s"], scenario["description"]) == (1, "beta is slow")
    cells = scenario["cells"]
    assert list(cells) == ["least-latency", f"least-latency, {both}"]
    assert cells["least-latency"]["latency"]["p50"] > 2
    assert cells[f"least-latency, {both}"]["requests"] < cells["least-latency"]["requests"] / 3


def test_a_comparison_is_made_on_top_of_the_changes_and_wins_over_them(file):
    plan = _simulate.planned(
        [file], ["random"], seed=None, assertions=[], changes=["slo_s=1", "traffic.rate_rps=2"],
        comparisons=["traffic.rate_rps=3"],
    )
    ((as_it_is, other),) = plan.scenarios
    assert (as_it_is.label, as_it_is.scenario.slo_s, as_it_is.scenario.traffic.rate_rps) == ("", 1, 2)
    assert (other.label, other.scenario.slo_s, other.scenario.traffic.rate_rps) == ("traffic.rate_rps=3", 1, 3)
    assert plan.runs == 2


def test_several_files_are_several_tables(file, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(SMALL.replace('"small"', '"other"'), encoding="utf-8")
    titles = [line for line in called(file, other).stdout.splitlines() if line.endswith("fails for a while")]
    assert [title.partition(":")[0] for title in titles] == ["small", "other"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{small}", "--set", "traffic.rate_rsp=2"], "small.toml: traffic: unknown field 'rate_rsp'. Did you mean"),
        (["{small}", "--set", "providers.gamma.capacity=2"], "providers.gamma.capacity: there is no 'gamma' to change"),
        (["{small}", "--set", "providers.capacity=2"], "providers.capacity: say which one by its name"),
        (["{small}", "--set", "name.first=2"], "name.first: there is no 'name' to change"),
        (["{small}", "--set", "slo_s"], "'slo_s' is no change; write NAME=VALUE"),
        (["{small}", "--compare", "slo_s=-1"], "small.toml: slo_s: Input should be greater than 0"),
        (["{small}", "--set", "trace=none.jsonl"], "small.toml: No such file or directory: "),
        (["{small}", "--assert", "p98 <= 8 s"], "unknown metric 'p98'. Known: p50,"),
        (["{small}", "--set", 'assertions=["p99 = 8 s"]'], "small.toml: assertions: 'p99 = 8 s' is no assertion"),
        (["{small}", "{small}"], "two of the scenarios are named 'small'"),
        (["{small}", "--strategy", "round-robbin"], "Did you mean 'round-robin'?"),
        (["{small}", "--html", "nowhere/out.html"], "there is no directory nowhere"),
        (["absent.toml"], "absent.toml: No such file or directory"),
        (["{latin}"], "latin.toml: not UTF-8:"),
        (["{broken}"], "broken.toml: not TOML:"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_played(file, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(_simulate, "simulate", lambda *_, **__: pytest.fail("played"))
    (tmp_path / "latin.toml").write_bytes(SMALL.replace("small", "kl\u00e4in").encode("latin-1"))
    (tmp_path / "broken.toml").write_text("name = ", encoding="utf-8")
    files = {name: str(tmp_path / f"{name}.toml") for name in ("small", "latin", "broken")}
    result = called(*[argument.format(**files) if argument.startswith("{") else argument for argument in arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_file_that_cannot_be_written_is_exit_code_1_after_the_table(file, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    out.symlink_to(tmp_path / "gone" / "out.json")
    result = called(file, "--json", out)
    assert result.exit_code == 1
    assert "answered under" in result.stdout
    assert "cannot be written: " in result.stderr


def test_ctrl_c_is_exit_code_130(file, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_simulate, "simulate", interrupted)
    assert called(file).exit_code == 130


def test_names_are_no_markup_and_steer_no_terminal(file):
    file.write_text(SMALL.replace('"alpha"', '"[red]al\\u001bpha"'), encoding="utf-8")
    assert "[red]alpha " in called(file).stdout


def test_on_a_terminal_a_bar_moves_from_nothing_to_all(file, tmp_path):
    plan = _simulate.planned([file], ["random", "round-robin"], seed=1, assertions=[], changes=[], comparisons=[])
    told = []
    _simulate.play(plan, lambda name, over: told.append((name, over)))
    assert [told[0], told[-1]] == [("small: random", 0.0), ("small: round-robin", 2.0)]
    assert [over for _, over in told] == sorted(over for _, over in told)
    notes = Console(force_terminal=True, file=(tmp_path / "notes").open("w", encoding="utf-8"), width=120)
    out = Console(file=(tmp_path / "out").open("w", encoding="utf-8"))
    assert _simulate.run(plan, _simulate.Outputs(out, notes, moves=True))
    for console in (notes, out):
        console.file.close()
    # The last one for certain; whether an earlier one was ever drawn depends on how long it took.
    assert "small: round-robin" in (tmp_path / "notes").read_text(encoding="utf-8")


def test_the_example_of_the_page_does_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    (tmp_path / "shop.toml").write_text(re.search(r"```toml\n# shop.toml\n(.*?)```", text, re.DOTALL)[1])
    commands = re.findall(r"^orchestrator (simulate .+)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert (tmp_path / "shop.html").exists()


@pytest.mark.parametrize(
    ("text", "metric", "operator", "bound"),
    [
        ("p99 <= 8 s", "p99", "<=", 8.0), ("p50<250ms", "p50", "<", 0.25),
        ("first_token_p95 ≤ 1.5 s", "first_token_p95", "<=", 1.5), ("errors <= 0.1 %", "errors", "<=", 0.1),
        ("answered ≥ 99.9%", "answered", ">=", 99.9), ("in_time > 95 %", "in_time", ">", 95),
        ("attempts <= 1.2", "attempts", "<=", 1.2), (" cost <= 0.5 USD ", "cost", "<=", 0.5),
    ],
)
def test_an_assertion_is_metric_operator_number_unit(text, metric, operator, bound):
    assert Assertion.parse(text)[1:] == (metric, operator, bound)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99 <= 8", "p99 takes s or ms"), ("p99 <= 8 %", "p99 takes s or ms, not '%'"),
        ("errors <= 1", "errors takes %"), ("attempts < 2 s", "attempts takes no unit, not 's'"),
        ("cost < 1 $", "cost takes USD, not '\\$'"),
        ("p99 == 8 s", "no assertion"), ("p99 <= -8 s", "no assertion"), ("p99 <= 1e3 s", "no assertion"),
        ("p99 <= 8 s please", "no assertion"), ("", "no assertion"), ("8 s >= p99", "no assertion"),
        ("p99 <= nan s", "no assertion"), ("P99 <= 8 s", "no assertion"),
        ("latency <= 8 s", "unknown metric 'latency'"),
    ],
)
def test_anything_else_is_refused_with_what_would_do(text, said):
    with pytest.raises(ValueError, match=said):
        Assertion.parse(text)


@pytest.mark.parametrize("metric", ["p50", "p95", "p99", "first_token_p50", "first_token_p95", "first_token_p99"])
def test_a_bound_is_kept_at_its_edge_unless_it_is_strict(metric, figures):
    value = Assertion.parse(f"{metric} < 1 s").value(figures)
    source = figures.first_token if metric.startswith("first") else figures.latency
    assert value == getattr(source, metric[-3:])
    kept = [sign for sign in ("<=", "<", ">=", ">")
            if Assertion.parse(f"{metric} {sign} {value} s").broken_by(figures) is None]
    assert kept == ["<=", ">="]


@pytest.mark.parametrize(
    ("metric", "unit", "value"),
    [("answered", "%", 100.0), ("errors", "%", 0.0), ("in_time", "%", 100.0), ("cost", "USD", None),
     ("attempts", "", None)],
)
def test_every_metric_is_the_figure_of_its_name(metric, unit, value, figures):
    expected = {"cost": figures.cost_per_1000, "attempts": figures.attempts_per_request}.get(metric, value)
    assert Assertion.parse(f"{metric} > 0 {unit}").value(figures) == expected


def test_without_answers_no_bound_of_a_latency_is_kept():
    dead = SMALL.replace("from_s = 2\nuntil_s = 4", "from_s = 0\nuntil_s = 999")
    figures = simulate(Scenario.parse(dead[: dead.index('[[providers]]\nname = "beta"')])).summary()
    assert figures.answered == 0
    assert Assertion.parse("p99 <= 999 s").broken_by(figures) == "no answers"
    assert Assertion.parse("errors <= 0.1 %").broken_by(figures) == "100 %"


def test_a_change_makes_the_tables_on_its_way():
    changed = Scenario.parse(SMALL, changes={"router.retry.max_retries": 0, "providers.alpha.config.weight": 3})
    assert changed.router.retry is not None
    assert changed.router.retry.max_retries == 0
    assert changed.providers[0].config == {"weight": 3}
    with pytest.raises(ScenarioError, match=r"router\.retry\.max_retries: "):
        Scenario.parse(SMALL, changes={"router.retry.max_retries": -1})
