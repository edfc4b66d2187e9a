"""Arrivals, sizes and conversations are those of the model, and the same in every run of a seed."""

from __future__ import annotations

from itertools import pairwise
from math import log
from statistics import median, pstdev

import pytest

from orchestrator.simulation import Job
from orchestrator.simulation.model import TrafficModel
from orchestrator.simulation.traffic import Traffic


def arrivals(seed=1, until=1000.0, **fields):
    return list(Traffic(TrafficModel(**fields), seed=seed, until=until).arrivals())


def test_arrivals_are_poisson():
    jobs = arrivals(rate_rps=10)
    gaps = [b.at - a.at for a, b in pairwise(jobs)]
    assert len(jobs) == pytest.approx(10_000, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.1, rel=0.05)  # of an exponential, its mean


def test_bursts_come_on_top_and_come_again():
    burst = {"extra_rps": 40, "from_s": 100, "until_s": 150, "every_s": 400}
    jobs = arrivals(rate_rps=10, bursts=[burst], until=900)
    within = sum(100 <= (job.at % 400) < 150 for job in jobs)
    assert within == pytest.approx(2 * 50 * 50, rel=0.05)
    assert len(jobs) - within == pytest.approx(800 * 10, rel=0.05)


def test_sizes_are_log_normal_and_bounded_and_the_text_is_as_long_as_it_says():
    jobs = arrivals(rate_rps=5, prompt_tokens={"median": 500, "sigma": 0.5, "most": 2000},
                    completion_tokens={"median": 100, "sigma": 1.0})
    assert median(job.prompt_tokens for job in jobs) == pytest.approx(500, rel=0.05)
    assert max(job.prompt_tokens for job in jobs) == 2000
    assert pstdev(log(job.completion_tokens) for job in jobs) == pytest.approx(1.0, rel=0.05)
    assert all(len(job) == 4 * job.prompt_tokens for job in jobs if job.prompt_tokens > 10)


def test_the_same_seed_brings_the_same_requests_and_another_one_others():
    def seen(seed):
        return [(job.at, job.key, job.prompt_tokens, job.streamed) for job in arrivals(seed, rate_rps=1, streamed=0.5)]

    assert seen(1) == seen(1)
    assert not set(seen(1)) & set(seen(2))


def test_a_share_is_streamed_and_classes_have_shares_deadlines_and_priorities():
    classes = [{"name": "live", "share": 3, "deadline_s": 5}, {"name": "batch", "share": 1, "priority": 2}]
    jobs = arrivals(rate_rps=5, streamed=0.25, deadline_s=60, classes=classes)
    assert sum(job.streamed for job in jobs) / len(jobs) == pytest.approx(0.25, rel=0.1)
    assert sum(job.kind == 1 for job in jobs) / len(jobs) == pytest.approx(0.25, rel=0.1)
    assert {(job.kind, job.timeout, job.priority) for job in jobs} == {(0, 5, 0), (1, 60, 2)}


def conversations(**fields):
    model = TrafficModel(sessions={"number": 3, "turns": 3, "prefix_tokens": 1000, "think_s": 10, **fields})
    return Traffic(model, seed=1, until=1000)


def test_a_conversation_grows_by_what_was_said_and_begins_with_the_same_text():
    traffic = conversations()
    first = next(traffic.openings())
    second = traffic.after(first, 5.0, answered=True)
    assert first.prompt_tokens > 1000
    assert second.prompt_tokens > first.prompt_tokens + first.completion_tokens
    assert second.startswith(first)
    assert (second.session, second.turn, second.at > 5) == (first.session, 1, True)


@pytest.mark.parametrize("answered", [True, False])
def test_after_its_last_turn_or_a_failure_another_conversation_takes_the_place(answered):
    traffic = conversations(turns=1 if answered else 3)
    places = list(traffic.openings())
    others = [traffic.after(job, 20.0, answered=answered) for job in places]
    assert len({job.session for job in places + others}) == 6
    assert [job.place for job in others] == [0, 1, 2]
    assert not others[0].startswith(places[0][:20])
    assert traffic.after(places[0], 1000.0, answered=True) is None


def test_thinking_times_are_exponential():
    traffic = conversations(number=2000)
    gaps = [job.at - 5 for opening in traffic.openings() if (job := traffic.after(opening, 5.0, answered=True))]
    assert sum(gaps) / len(gaps) == pytest.approx(10, rel=0.1)
    assert pstdev(gaps) == pytest.approx(10, rel=0.1)


def test_a_job_is_the_prompt_it_stands_for():
    job = Job.written("Request 1. ", 5, 7, key=3)
    assert isinstance(job, str)
    assert (len(job), job.prompt_tokens, job.completion_tokens) == (20, 5, 7)
    assert [job.tried(0), job.tried(1), job.tried(0)] == [0, 0, 1]
