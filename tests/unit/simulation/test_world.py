"""A modelled provider does what its model says: each table, measured on calls."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from math import log
from statistics import correlation, mean, median, pstdev

import pytest

from orchestrator import errors
from orchestrator.core.config import GenerationParams, Timeouts
from orchestrator.core.types import Completion, Finished, Message, Request
from orchestrator.simulation import Job
from unit.simulation.worlds import ask, ask_at, job, provider, streamed


def services(modelled, count=4000, at=0.0, tokens=100):
    return [modelled.nature.service(modelled.nature.luck(job(n)), at, tokens) for n in range(count)]


async def test_a_plain_answer_takes_first_token_and_tokens_and_tells_both():
    answer, took = await ask(provider())
    assert took == pytest.approx(2.0)
    assert (answer.time_to_first_token, answer.usage.completion_tokens) == (pytest.approx(1.0), 100)


async def test_a_stream_has_its_first_piece_in_time_and_never_looks_silent():
    modelled = provider(token_rate={"median_tps": 2})
    began = asyncio.get_running_loop().time()
    pieces, last = await streamed(modelled, job(completion_tokens=100))
    assert asyncio.get_running_loop().time() - began == pytest.approx(51.0)
    times = [at for at, _ in pieces]
    assert times[0] == pytest.approx(1.0)
    assert max(b - a for a, b in pairwise([*times, 51.0])) < Timeouts().idle
    assert sum(length for _, length in pieces) == 400
    assert isinstance(last, Finished)


@pytest.mark.parametrize(("fields", "early"), [
    ({}, 400), ({"config": {"timeout": 100}}, 4),
    ({"episodes": [{"kind": "outage", "from_s": 1.5, "until_s": 3, "interrupts": True}]}, 4),
])
async def test_the_rest_of_a_short_answer_comes_with_its_first_piece_unless_it_may_be_cut(fields, early):
    pieces, _ = await streamed(provider(**fields), job(completion_tokens=100))
    assert pieces[0] == (pytest.approx(1.0), early)


def test_first_tokens_are_log_normal():
    drawn = [log(service.first_token) for service in services(provider(first_token={"median_s": 2, "sigma": 0.5}))]
    assert median(drawn) == pytest.approx(log(2), abs=0.03)
    assert pstdev(drawn) == pytest.approx(0.5, rel=0.05)


def test_token_rates_are_log_normal_and_not_those_of_the_first_token():
    drawn = services(provider(first_token={"median_s": 1, "sigma": 0.5}, token_rate={"median_tps": 50, "sigma": 0.3}))
    rates = [log(100 / (service.total - service.first_token)) for service in drawn]
    firsts = [log(service.first_token) for service in drawn]
    assert (mean(rates), pstdev(rates)) == (pytest.approx(log(50), abs=0.03), pytest.approx(0.3, rel=0.05))
    assert abs(correlation(rates, firsts)) < 0.05


@pytest.mark.parametrize(("alpha", "share_above_25"), [(None, 0.0), (2.0, 0.05 * (10 / 25) ** 2)])
def test_a_share_of_the_calls_has_a_long_first_token(alpha, share_above_25):
    modelled = provider(first_token={"median_s": 1, "tail_share": 0.05, "tail_factor": 10, "tail_alpha": alpha})
    drawn = [service.first_token for service in services(modelled, 20_000)]
    assert sum(first >= 10 for first in drawn) / len(drawn) == pytest.approx(0.05, rel=0.1)
    assert sum(first > 25 for first in drawn) / len(drawn) == pytest.approx(share_above_25, rel=0.2)


async def test_calls_beyond_the_capacity_wait_their_turn_and_the_wait_is_part_of_the_first_token():
    modelled = provider(capacity=2)
    answers = await asyncio.gather(*(ask(modelled, job(n)) for n in range(5)))
    assert [took for _, took in answers] == [pytest.approx(took) for took in (2, 2, 4, 4, 6)]
    assert answers[4][0].time_to_first_token == pytest.approx(5)
    assert (modelled.busy, modelled.queued) == (0, 0)


@pytest.mark.parametrize(("status", "error"), [(503, errors.OverloadedError), (429, errors.RateLimitError)])
async def test_a_full_queue_refuses(status, error):
    modelled = provider(capacity=1, queue=1, full_status=status)
    answers = await asyncio.gather(*(ask(modelled, job(n)) for n in range(3)))
    assert type(answers[2][0]) is error
    assert answers[2][1] == pytest.approx(0.02)


async def test_a_cancelled_call_gives_its_place_to_the_next_whether_it_was_served_or_queued():
    modelled = provider(capacity=1)
    calls = [asyncio.create_task(ask(modelled, job(n))) for n in range(4)]
    await asyncio.sleep(0.5)
    assert (modelled.busy, modelled.queued) == (1, 3)
    calls[1].cancel()
    calls[0].cancel()
    await asyncio.sleep(0)
    assert (modelled.busy, modelled.queued) == (1, 1)
    assert (await calls[2])[1] == pytest.approx(2.5)
    assert (await calls[3])[1] == pytest.approx(4.5)
    assert (modelled.busy, modelled.queued) == (0, 0)


async def test_a_place_that_comes_together_with_a_cancellation_goes_on_to_the_next():
    modelled = provider(capacity=1)
    calls = [asyncio.create_task(ask(modelled, job(n))) for n in range(3)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(2.0, lambda: asyncio.get_running_loop().call_soon(calls[1].cancel))
    assert (await calls[2])[1] == pytest.approx(4.0)
    assert (modelled.busy, modelled.queued) == (0, 0)


async def test_requests_above_the_quota_get_429_with_the_time_until_there_is_room():
    modelled = provider(rpm=60, quota_burst_s=3)
    answers = await asyncio.gather(*(ask(modelled, job(n)) for n in range(4)))
    refused = answers[3][0]
    assert [type(answer) for answer, _ in answers[:3]] == [Completion] * 3
    assert isinstance(refused, errors.RateLimitError)
    assert refused.retry_after == pytest.approx(1.0)
    assert type((await ask(modelled, job(5)))[0]) is Completion


async def test_tokens_count_against_their_own_quota():
    modelled = provider(tpm=6000, quota_burst_s=10)  # 1000 at once, 100 a second
    answer, _ = await ask(modelled, job(1, 700, 100))
    assert isinstance(answer, Completion)
    error = (await ask(modelled, job(2, 900, 100)))[0]
    assert error.retry_after == pytest.approx((1000 - 200) / 100 - 2.0)


async def test_a_prompt_longer_than_the_window_is_refused_as_such():
    error, _ = await ask(provider(context_window=1000), job(1, 950, 100))
    assert type(error) is errors.ContextWindowExceededError


async def test_the_cost_is_that_of_input_and_output():
    answer, _ = await ask(provider(prices={"input": 1, "output": 10}), job(1, 1000, 100))
    assert answer.cost == pytest.approx((1000 * 1 + 100 * 10) / 1e6)


async def test_a_warm_prompt_is_cheaper_and_sooner_answered_and_cools_down():
    modelled = provider(
        prices={"input": 1, "cached_input": 0.1, "output": 0},
        prompt_cache={"keeps_s": 60, "min_tokens": 500, "first_token_factor": 0.25},
    )
    first, _ = await ask(modelled, job(1, 900, 100, session=7))
    warm, _ = await ask(modelled, job(2, 2000, 100, session=7))
    other, _ = await ask(modelled, job(3, 2000, 100, session=8))
    late, _ = await ask_at(modelled, 200, job(4, 2000, 100, session=7))
    assert [a.usage.cached_tokens for a in (first, warm, other, late)] == [0, 1000, 0, 0]
    assert warm.cost == pytest.approx((1000 * 1 + 1000 * 0.1) / 1e6)
    assert warm.time_to_first_token == pytest.approx(1 - 0.75 * 0.5)


async def test_the_first_call_after_a_long_pause_is_slow():
    modelled = provider(cold_start={"after_idle_s": 30, "extra_s": 20})
    took = [(await ask_at(modelled, at))[1] for at in (1, 4, 60)]
    assert took == [pytest.approx(2), pytest.approx(2), pytest.approx(22)]


def test_the_day_has_slow_and_fast_hours():
    modelled = provider(diurnal={"amplitude": 0.5, "period_s": 100, "peak_at_s": 25})
    first = [services(modelled, 1, at)[0].first_token for at in (0, 25, 50, 75, 125)]
    assert first == [pytest.approx(x) for x in (1, 1.5, 1, 0.5, 1.5)]


async def test_a_share_of_the_calls_fails_after_a_while():
    modelled = provider(error_share=0.1, error_after_s=0.3)
    answers = await asyncio.gather(*(ask(modelled, job(n)) for n in range(2000)))
    failed = [took for answer, took in answers if isinstance(answer, errors.ServerError)]
    assert len(failed) / 2000 == pytest.approx(0.1, rel=0.2)
    assert failed == [pytest.approx(0.3)] * len(failed)


async def test_a_share_of_the_answers_breaks_on_the_way():
    modelled = provider(cut_share=0.2)
    answers = await asyncio.gather(*(ask(modelled, job(n)) for n in range(1000)))
    broken = [took for answer, took in answers if isinstance(answer, errors.ConnectionFailedError)]
    assert len(broken) / 1000 == pytest.approx(0.2, rel=0.2)
    assert mean(broken) == pytest.approx(1.0, abs=0.1)  # anywhere in its 2 s


@pytest.mark.parametrize(
    ("episode", "error", "seconds"),
    [
        ({"kind": "outage"}, errors.ConnectionFailedError, 0.005),
        ({"kind": "silence"}, errors.ConnectionFailedError, 600),
        ({"kind": "black_hole"}, errors.ServerError, 0.005),
        ({"kind": "black_hole", "status": 401, "fails_in_s": 0.1}, errors.AuthenticationError, 0.1),
        ({"kind": "black_hole", "status": 429}, errors.RateLimitError, 0.005),
        ({"kind": "brown_out", "error_share": 1.0}, errors.ServerError, 0.2),
    ],
)
async def test_an_episode_fails_the_calls_that_begin_in_it_and_no_others(episode, error, seconds):
    modelled = provider(episodes=[{**episode, "from_s": 10, "until_s": 20}])
    answers = await asyncio.gather(*(ask_at(modelled, at, job(at)) for at in (9, 10, 19, 20)))
    assert [type(answer) for answer, _ in answers] == [Completion, error, error, Completion]
    assert answers[1][1] == pytest.approx(seconds)


async def test_a_brown_out_slows_first_token_and_rate_of_the_calls_that_begin_in_it():
    modelled = provider(episodes=[{"kind": "brown_out", "from_s": 10, "until_s": 20, "slower": 3}])
    took = [(await ask_at(modelled, at))[1] for at in (7, 10, 20)]
    assert took == [pytest.approx(2), pytest.approx(6), pytest.approx(2)]


async def test_a_flapping_provider_is_down_at_the_beginning_of_every_period():
    modelled = provider(
        episodes=[{"kind": "flapping", "from_s": 100, "until_s": 200, "period_s": 20, "down_share": 0.25}]
    )
    times = (99, 100, 104, 106, 119, 121, 180, 190, 201)
    answers = await asyncio.gather(*(ask_at(modelled, at, job(at)) for at in times))
    down = [at for at, (answer, _) in zip(times, answers, strict=True) if not isinstance(answer, Completion)]
    assert down == [100, 104, 121, 180]


async def test_an_outage_may_break_what_is_under_way_and_a_silence_may_stop_it():
    cut = provider(episodes=[{"kind": "outage", "from_s": 1.5, "until_s": 9, "interrupts": True}])
    pieces, last = await streamed(cut, job())
    assert pieces[0][0] == pytest.approx(1.0)
    assert isinstance(last, errors.ConnectionFailedError)
    assert asyncio.get_running_loop().time() == pytest.approx(1.5)
    stopped = provider(episodes=[{"kind": "silence", "from_s": 3, "until_s": 90, "interrupts": True}])
    answer, took = await ask(stopped)
    assert isinstance(answer, errors.ConnectionFailedError)
    assert took > 600


async def test_what_was_written_before_a_cancellation_is_paid():
    modelled = provider(prices={"input": 1, "output": 10})
    asked = job(1, 1000, 100)
    asked.number = 0
    modelled._ledger.calls.append(0)
    modelled._ledger.cost.append(0.0)
    call = asyncio.create_task(ask(modelled, asked))
    await asyncio.sleep(1.5)
    call.cancel()
    await asyncio.sleep(0)
    assert modelled._ledger.cost[0] == pytest.approx((1000 + 50 * 10) / 1e6)
    assert modelled._ledger.calls[0] == 1


def test_luck_belongs_to_the_request_and_the_provider_not_to_the_order_of_calls():
    one, other = provider(), provider()
    forward = [one.nature.luck(job(n)) for n in range(50)]
    backward = [other.nature.luck(job(n)) for n in reversed(range(50))][::-1]
    assert forward == backward
    assert forward != [one.nature.luck(job(n), attempt=1) for n in range(50)]
    assert forward != [provider(seed=2).nature.luck(job(n)) for n in range(50)]


async def test_asked_again_it_has_other_luck():
    modelled = provider(first_token={"median_s": 1, "sigma": 0.5})
    asked = job()
    assert (await ask(modelled, asked))[1] != (await ask(modelled, asked))[1]


async def test_a_continuation_writes_the_rest_and_a_foreign_prompt_is_answered_too():
    modelled = provider()
    messages = (Message("user", job(completion_tokens=100)), Message("assistant", "x" * 4 * 60))
    rest = await modelled.complete(Request(messages=messages))
    assert rest.usage.completion_tokens == 40
    foreign = await modelled.complete(Request("Hello?", GenerationParams(max_tokens=10)))
    assert foreign.usage.completion_tokens == 10
    assert Job.foreign("Hello?", 0).key == Job.foreign("Hello?", 0).key != Job.foreign("Hello!", 0).key
