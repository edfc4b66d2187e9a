"""Settings: validated, frozen but for ProviderConfig, helpful when wrong, silent about keys."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.core.config import BreakerPolicy, GenerationParams, ProviderConfig, RetryPolicy, Timeouts

KEY = "sk-abcdefghijklmnop0123456789"
POLICIES = [GenerationParams, Timeouts, RetryPolicy, BreakerPolicy]
EVERYTHING = [*POLICIES, ProviderConfig]


def make(cls, **fields):
    return cls(**({"name": "a"} if cls is ProviderConfig else {}), **fields)


# All of them


@pytest.mark.parametrize("cls", EVERYTHING)
def test_an_unknown_field_is_refused_with_the_known_ones(cls):
    with pytest.raises(ValueError, match="unknown field 'colour'") as caught:
        make(cls, colour="red")
    assert f"{cls.__name__} knows: {', '.join(cls.model_fields)}" in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "typo", "meant"),
    [
        (ProviderConfig, "modle", "model"), (ProviderConfig, "apikey", "api_key"), (Timeouts, "totl", "total"),
        (GenerationParams, "max_token", "max_tokens"), (RetryPolicy, "retries", "max_retries"),
        (BreakerPolicy, "windows", "window"),
    ],
)
def test_a_typo_is_told_what_was_meant(cls, typo, meant):
    with pytest.raises(ValueError, match=rf"unknown field '{typo}'\. Did you mean '{meant}'\?"):
        make(cls, **{typo: 1})


def test_a_name_like_nothing_known_gets_no_guess():
    with pytest.raises(ValueError, match=r"unknown field 'xyzzy'\. Timeouts knows"):
        Timeouts(xyzzy=1)


@pytest.mark.parametrize("cls", EVERYTHING)
def test_something_that_is_no_settings_at_all_is_refused_without_repeating_it(cls):
    with pytest.raises(ValidationError) as caught:
        cls.model_validate(KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("cls", POLICIES)
def test_a_policy_is_frozen(cls):
    policy = cls()
    field = next(iter(cls.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(policy, field, 1)
    assert policy == cls()
    assert hash(policy) == hash(cls())


@pytest.mark.parametrize(
    ("cls", "field", "bad"),
    [
        (Timeouts, "connect", 0), (Timeouts, "first_token", -1), (Timeouts, "idle", float("nan")),
        (Timeouts, "total", 0), (Timeouts, "attempt", -1), (Timeouts, "total", "soon"),
        (GenerationParams, "temperature", 2.1), (GenerationParams, "temperature", -0.1),
        (GenerationParams, "temperature", float("nan")), (GenerationParams, "max_tokens", 0),
        (GenerationParams, "max_tokens", 1.5), (GenerationParams, "top_p", 1.1), (GenerationParams, "stop", 5),
        (GenerationParams, "stop", ["a", 5]), (GenerationParams, "seed", "x"),
        (RetryPolicy, "max_retries", -1), (RetryPolicy, "max_retries", 11), (RetryPolicy, "base_delay", 0),
        (RetryPolicy, "max_delay", 0), (RetryPolicy, "patience", -1), (RetryPolicy, "max_retry_after", 0),
        (BreakerPolicy, "window", 0), (BreakerPolicy, "min_calls", 0), (BreakerPolicy, "failure_ratio", 0),
        (BreakerPolicy, "failure_ratio", 1.1), (BreakerPolicy, "consecutive_failures", 0),
        (BreakerPolicy, "slow_call", 0), (BreakerPolicy, "slow_ratio", 0), (BreakerPolicy, "break_base", 0),
        (BreakerPolicy, "break_max", 0), (BreakerPolicy, "break_jitter", 1.1), (BreakerPolicy, "probes", 0),
        (BreakerPolicy, "probe_timeout", 0), (BreakerPolicy, "ramp", -1),
        (ProviderConfig, "timeout", 0), (ProviderConfig, "max_retries", 11), (ProviderConfig, "weight", 0),
        (ProviderConfig, "weight", float("inf")), (ProviderConfig, "rpm_limit", 0), (ProviderConfig, "tpm_limit", -5),
        (ProviderConfig, "max_concurrency", 0), (ProviderConfig, "context_window", 0),
        (ProviderConfig, "priority", "high"),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_the_field_named(cls, field, bad):
    with pytest.raises(ValidationError) as caught:
        make(cls, **{field: bad})
    assert [error["loc"][0] for error in caught.value.errors()] == [field]


# Timeouts


@pytest.mark.parametrize(
    ("given_fields", "attempt"),
    [
        ({}, 60), ({"total": 30}, 15), ({"total": "30"}, 15), ({"attempt": 0, "total": 8}, 4), ({"attempt": 7}, 7),
        ({"attempt": 500, "total": 10}, 500),
    ],
)
def test_an_attempt_may_take_half_of_the_total_unless_said_otherwise(given_fields, attempt):
    assert Timeouts(**given_fields).attempt == attempt


@settings(max_examples=100, deadline=None)
@given(st.floats(min_value=0.001, max_value=1e6))
def test_one_failover_fits_into_any_total(total):
    assert Timeouts(total=total).attempt * 2 == pytest.approx(total)


# Parameters


def test_what_is_unset_is_not_given():
    assert GenerationParams().given() == {}
    assert GenerationParams(temperature=0, seed=0).given() == {"temperature": 0, "seed": 0}
    assert GenerationParams(max_tokens=5, top_p=0.5, stop=["a", "b"]).given() == {
        "max_tokens": 5, "top_p": 0.5, "stop": ("a", "b"),
    }


def test_one_stop_text_is_a_list_of_one():
    assert GenerationParams(stop="END").stop == ("END",)


# ProviderConfig


def test_a_name_is_all_a_provider_needs():
    config = ProviderConfig(name="a")
    assert (config.weight, config.priority, config.enabled, config.verify_ssl) == (1.0, 0, True, True)
    assert config.timeout is config.max_retries is config.rpm_limit is config.context_window is None
    with pytest.raises(ValidationError, match="name"):
        ProviderConfig()
    with pytest.raises(ValidationError, match="name"):
        ProviderConfig(name="")


def test_a_known_field_may_be_assigned_and_is_validated():
    config = ProviderConfig(name="a")
    config.timeout = "7"
    assert config.timeout == 7.0
    with pytest.raises(ValidationError, match="greater than 0"):
        config.timeout = -1
    assert config.timeout == 7.0


@pytest.mark.parametrize("field", ["modle", "_watchers", "colour"])
def test_an_unknown_field_cannot_be_assigned(field):
    config = ProviderConfig(name="a")
    with pytest.raises(ValueError, match=f"unknown field '{field}'"):
        setattr(config, field, "x")


def test_those_who_watch_are_told_after_each_assignment_until_they_leave():
    config = ProviderConfig(name="a")
    seen = []

    def watcher():
        seen.append(config.weight)

    config.on_change(watcher)
    config.weight = 2
    with pytest.raises(ValidationError):
        config.weight = -1
    config.off_change(watcher)
    config.weight = 3
    assert seen == [2.0]


@pytest.mark.parametrize(
    "twin",
    [copy.copy, copy.deepcopy, lambda c: c.model_copy(), lambda c: c.model_copy(deep=True),
     lambda c: pickle.loads(pickle.dumps(c))],
    ids=["copy", "deepcopy", "model_copy", "model_copy-deep", "pickle"],
)
def test_a_copy_has_the_same_settings_and_no_watchers(twin):
    config = ProviderConfig(name="a", api_key=KEY, headers={"x-team": "sea"})
    seen = []
    config.on_change(lambda: seen.append("told"))  # a lambda can neither be pickled nor should it be
    same = twin(config)
    assert same == config
    same.weight = 5
    assert seen == []
    assert config.weight == 1.0
    config.weight = 5
    assert seen == ["told"]


def test_watching_makes_no_difference_between_two_configurations():
    one, two = ProviderConfig(name="a"), ProviderConfig(name="a")
    one.on_change(print)
    assert one == two
    assert one != ProviderConfig(name="b")


SECRETS = {"api_key": KEY, "headers": {"x-key": KEY}, "extra_body": {"key": KEY}}


def test_no_secret_is_shown():
    config = ProviderConfig(name="a", model="m", **SECRETS)
    for shown in repr(config), str(config), f"{config}", repr([config]):
        assert KEY not in shown
        assert "name='a'" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/v1", "https://host/v1"),
        (f"https://{KEY}@host/v1", "https://***@host/v1"),
        (f"https://user:{KEY}@host:8080", "https://***@host:8080"),
        (f"https://user:p@{KEY}@host/v1", "https://***@host/v1"),
        (f"https://host/v1?key={KEY}", "https://host/v1?***"),
        (f"https://host?key=a@{KEY}", "https://host?***"),
    ],
)
def test_credentials_within_a_url_are_not_shown(url, shown):
    config = ProviderConfig(name="a", base_url=url, auth_url=url)
    assert f"base_url={shown!r}" in repr(config)
    assert f"auth_url={shown!r}" in repr(config)
    assert KEY not in repr(config)
    assert config.base_url == url


@pytest.mark.parametrize(
    "fields",
    [{"api_key": {"nested": KEY}}, {"headers": KEY}, {"timeout": KEY}, {"headers": {"a": [KEY]}}, {"colour": KEY}],
)
def test_a_key_in_the_wrong_place_is_not_repeated_by_the_error(fields):
    with pytest.raises(ValidationError) as caught:
        ProviderConfig(name="a", **fields)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    config = ProviderConfig(name="a")
    for field, value in fields.items():
        with pytest.raises(ValueError) as caught:
            setattr(config, field, value)
        assert KEY not in str(caught.value)
