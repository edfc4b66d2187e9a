"""A scenario file says what is wrong, and where; the real policies judge their own tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import BreakerPolicy, Timeouts
from orchestrator.simulation import Scenario, ScenarioError

GOOD = """
name = "two"
duration_s = 60

[traffic]
rate_rps = 2

[[providers]]
name = "alpha"
first_token = { median_s = 0.5 }
token_rate = { median_tps = 80 }

[[providers]]
name = "beta"
copies = 2
first_token = { median_s = 0.5 }
token_rate = { median_tps = 80 }
config = { weight = 2, rpm_limit = 60 }

[[providers.episodes]]
kind = "outage"
from_s = 10
until_s = 20

[router.timeouts]
total = 30

[router.breaker]
consecutive_failures = 3
"""
SCENARIOS = sorted((Path(__file__).parents[3] / "benchmarks" / "scenarios").glob("*.toml"))


def test_policies_and_configurations_are_the_real_ones():
    scenario = Scenario.parse(GOOD)
    policies = {"timeouts": Timeouts(total=30), "breaker": BreakerPolicy(consecutive_failures=3)}
    assert scenario.router.options() == policies
    assert [model.name for model in scenario.each_provider()] == ["alpha", "beta-1", "beta-2"]
    config = scenario.each_provider()[2].provider_config("beta-2")
    assert (config.name, config.weight, config.rpm_limit) == ("beta-2", 2, 60)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate_rps = 2", "rate_rps = -2", "traffic.rate_rps: Input should be greater than or equal to 0"),
        ("rate_rps = 2", "rate_rsp = 2", "traffic: unknown field 'rate_rsp'. Did you mean 'rate_rps'?"),
        ("rate_rps = 2", "rate_rps = 0", "traffic: no requests"),
        ("copies = 2", "copys = 2", "providers[2] (beta): unknown field 'copys'. Did you mean 'copies'?"),
        ("until_s = 20", "until_s = 5", "providers[2] (beta).episodes[1]: until_s 5 is not after from_s 10"),
        ("until_s = 20", "until_s = 'x'", "providers[2] (beta).episodes[1].until_s: Input should be a valid number"),
        ('kind = "outage"', 'kind = "outrage"', "providers[2] (beta).episodes[1]: "),
        ("weight = 2", "wait = 2", "providers[2] (beta): "),
        ("total = 30", "totl = 30", "router.timeouts: unknown field 'totl'. Did you mean 'total'?"),
        ("total = 30", "total = -1", "router.timeouts.total: Input should be greater than 0"),
        ('name = "alpha"', 'name = "beta-1"', "two providers are named 'beta-1'"),
        ("duration_s = 60", "duration_s = 60\nwarm_up_s = 60", "warm_up_s 60 is not below duration_s 60"),
        ("[traffic]", "[traffic", "not TOML"),
    ],
)
def test_an_error_names_file_table_and_field(tmp_path, old, new, said):
    file = tmp_path / "mine.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ScenarioError) as caught:
        Scenario.load(file)
    assert str(caught.value).startswith("mine.toml: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_of_the_benchmarks_can_be_read(path):
    scenario = Scenario.load(path)
    assert scenario.description
    assert path.read_text().startswith("# ")


def test_all_the_scenarios_are_there():
    assert {path.stem for path in SCENARIOS} >= {
        "black-hole", "brown-out", "burst", "cold-start", "everything", "flapping", "four-providers", "heterogeneous",
        "linkerd", "one-dead", "one-slow", "price-spread", "quota-bound", "sessions", "steady",
    }


def test_a_faulty_provider_is_not_told_of_twice():
    one = GOOD.split("[[providers]]\nname = \"beta\"", maxsplit=1)[0].replace("median_s", "median")
    with pytest.raises(ScenarioError) as caught:
        Scenario.parse(one)
    assert str(caught.value).count("\n") == 0
    assert "Did you mean 'median_s'?" in str(caught.value)
    with pytest.raises(ScenarioError, match="providers: Tuple should have at least 1 item"):
        Scenario.parse('providers = []\nname = "x"\nduration_s = 1\n[traffic]\nrate_rps = 1')


def test_whoever_is_not_there_cannot_be_changed_but_the_others_are_named():
    with pytest.raises(ScenarioError, match="there is no 'gamma' to change; known: alpha, beta"):
        Scenario.parse(GOOD, changes={"providers.gamma.capacity": 2})
