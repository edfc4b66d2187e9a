"""What is learnt from answers and failures, and how it ages."""

from __future__ import annotations

from math import exp, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.stats import UNMEASURED, CandidateView, LatencyHistogram
from orchestrator.core.types import Usage


def view(pace: float | None = None, at: float = 0.0) -> CandidateView:
    """A provider, with one answer at this pace if one is given."""
    made = CandidateView("a")
    if pace is not None:
        made.answered(at, pace * 100, Usage(0, 50), 0)
    return made


class TestPace:
    def test_is_seconds_per_token_with_fifty_tokens_for_the_start(self):
        assert view(0.02).pace == pytest.approx(0.02)
        quick, long = CandidateView("quick"), CandidateView("long")
        quick.answered(0, 1.0, Usage(0, 0), 0)
        long.answered(0, 11.0, Usage(0, 500), 0)
        assert quick.pace == long.pace == pytest.approx(0.02)

    @pytest.mark.parametrize("usage", [None, Usage(10, 0)])
    def test_takes_four_characters_for_a_token_when_the_usage_is_unknown(self, usage):
        made = CandidateView("a")
        made.answered(0, 1.0, usage, 200)
        assert made.pace == pytest.approx(0.01)

    @pytest.mark.parametrize("age", [2.0, 10.0, 60.0])
    def test_older_samples_lose_weight_by_e_every_ten_seconds(self, age):
        made = view(0.1, at=100)
        made.answered(100 + age, 2.0, Usage(0, 50), 0)
        assert made.pace == pytest.approx(0.1 * exp(-age / 10) + 0.02 * (1 - exp(-age / 10)))
        assert made.sampled_at == 100 + age

    def test_a_burst_of_answers_is_not_lost(self):
        made = view(0.1)
        for _ in range(20):
            made.answered(0.0, 2.0, Usage(0, 50), 0)
        assert made.pace == pytest.approx(0.1 * 0.9**20 + 0.02 * (1 - 0.9**20))

    def test_a_failure_does_not_make_the_next_answer_count_less(self):
        made = view(0.1)
        made.failed(59.9, None)
        made.answered(60, 2.0, Usage(0, 50), 0)
        assert made.pace == pytest.approx(0.02, rel=0.02)
        assert made.sampled_at == 60

    def test_half_of_it_is_how_soon_streams_open(self):
        made = view(0.02)
        made.opened(1, 3.0)
        assert made.pace == pytest.approx((0.02 + 3 / 50) / 2)
        made.answered(1, 2.0, Usage(0, 50), 0)
        assert (made.answer_pace, made.pace) == (pytest.approx(0.02), pytest.approx((0.02 + 3 / 50) / 2))
        made.lost(1, 50.0, Usage(0, 50), 0)
        assert made.pace == pytest.approx((made.answer_pace + 3 / 50) / 2)
        assert made.answer_pace > 0.02

    def test_a_stream_that_has_only_opened_says_nothing_of_a_whole_answer(self):
        made = view()
        made.opened(1, 3.0)
        assert made.pace is None
        made.answered(4, 2.0, Usage(0, 50), 0)
        assert made.pace == pytest.approx((0.02 + 3 / 50) / 2)

    @pytest.mark.parametrize("age", [0.0, 2.0, 10.0])
    def test_how_soon_streams_open_ages_like_the_rest(self, age):
        made = view()
        made.opened(100, 1.0)
        made.opened(100 + age, 2.0)
        assert made.opening_pace * 50 == pytest.approx(1 + max(0.1, 1 - exp(-age / 10)))
        assert made.opened_at == 100 + age

    @given(
        st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 100)), min_size=1, max_size=30)
    )
    @settings(max_examples=100, deadline=None)
    def test_stays_within_the_samples(self, steps):
        made, at, samples = CandidateView("a"), 0.0, []
        for gap, latency in steps:
            at += gap
            made.answered(at, latency, Usage(0, 50), 0)
            samples.append(latency / 100)
        assert min(samples) * 0.999 <= made.pace <= max(samples) * 1.001


class TestLostRaces:
    def test_count_where_they_make_the_provider_look_slower(self):
        known = view(pace=0.01)
        known.lost(5.0, 0.1, None, 0)
        assert known.pace == 0.01, "it may have been about to answer"
        known.lost(5.0, 5.0, Usage(0, 50), 0)
        assert known.pace > 0.01
        assert (known.failures, known.penalty, len(known.histogram)) == (0, 0.0, 1)

    def test_are_all_there_is_for_one_that_never_answered(self):
        silent = view()
        silent.lost(5.0, 5.0, None, 200)
        assert silent.pace == pytest.approx(5 / 100)


class TestPenalty:
    def test_is_five_seconds_in_the_unit_of_the_pace(self):
        made = view(0.02)
        made.failed(0, None)
        assert made.expected_pace(0) == pytest.approx(5 / 50)
        assert made.pace == pytest.approx(0.02)

    def test_is_four_times_the_pace_of_a_slow_provider(self):
        made = view(0.5)
        made.failed(0, None)
        assert made.expected_pace(0) == pytest.approx(2.0)

    def test_is_the_retry_after_if_that_is_longer(self):
        made = view(0.02)
        made.failed(0, 60.0)
        assert made.expected_pace(0) == pytest.approx(60 / 50)
        made.failed(1, 1.0)
        assert made.expected_pace(1) == pytest.approx(60 / 50 * exp(-0.1)), "a shorter hint does not cut a longer one"

    def test_fades_by_e_every_ten_seconds_down_to_the_pace(self):
        made = view(0.02)
        made.failed(100, None)
        assert made.expected_pace(110) == pytest.approx(0.1 * exp(-1))
        assert made.expected_pace(200) == pytest.approx(0.02)

    def test_ends_with_an_answer_to_a_call_made_after_the_failure(self):
        made = view(0.02)
        made.failed(10, None)
        made.answered(12, 2.0, Usage(0, 50), 0)
        assert made.expected_pace(12) == pytest.approx(0.02)

    def test_is_halved_by_an_answer_to_a_call_made_before_the_failure(self):
        made = view(0.02)
        made.failed(10, None)
        made.answered(11, 2.0, Usage(0, 50), 0)
        assert made.expected_pace(11) == pytest.approx(0.05 * exp(-0.1))

    def test_an_unmeasured_provider_is_what_it_is_taken_for(self):
        assert view().expected_pace(0) == UNMEASURED
        assert view().expected_pace(0, 0.5) == 0.5

    @pytest.mark.parametrize(("taken_for", "penalty"), [(0.02, 0.1), (0.5, 2.0)])
    def test_of_an_unmeasured_provider_is_above_what_it_is_taken_for(self, taken_for, penalty):
        made = view()
        made.failed(0, None)
        assert made.expected_pace(0, taken_for) == pytest.approx(penalty)
        assert made.expected_pace(1000, taken_for) == taken_for, "and fades to that, not to nothing"

    def test_a_provider_that_fails_fast_does_not_look_fast(self):
        hole, sound = view(0.02), view(0.02)
        for at in range(1, 6):
            hole.failed(at, None)
            assert hole.expected_pace(at) >= 5 * sound.expected_pace(at)
        assert hole.histogram.quantile(0.5) == sound.histogram.quantile(0.5)


class TestTotals:
    def test_count_tokens_and_failures(self):
        made = CandidateView("a")
        made.answered(0, 1, Usage(10, 5), 0)
        made.answered(1, 1, None, 20)
        made.failed(2, None)
        assert (made.prompt_tokens, made.completion_tokens, made.failures, len(made.histogram)) == (10, 5, 1, 2)

    def test_a_new_one_was_never_heard_of(self):
        made = CandidateView("a", weight=2, priority=3, context_window=4)
        assert (made.weight, made.priority, made.context_window) == (2, 3, 4)
        assert made.sampled_at == made.penalised_at == -inf
        assert made.pace is None
        assert repr(made) == "CandidateView('a', in_flight=0, pace=None)"


class TestQuantiles:
    def test_of_nothing_is_unknown(self):
        assert LatencyHistogram().quantile(0.5) is None

    @given(
        st.lists(st.floats(0.001, 1000), min_size=1, max_size=100), st.sampled_from([0.0, 0.01, 0.5, 0.95, 0.99, 1.0])
    )
    @settings(max_examples=200, deadline=None)
    def test_are_within_ten_percent(self, latencies, q):
        histogram = LatencyHistogram()
        for latency in latencies:
            histogram.add(latency)
        rank = next(n for n in range(1, len(latencies) + 1) if n >= q * len(latencies))
        assert histogram.quantile(q) == pytest.approx(sorted(latencies)[rank - 1], rel=0.1)
        assert len(histogram) == len(latencies)

    def test_follow_a_provider_that_has_changed(self):
        histogram = LatencyHistogram()
        for latency in [0.1] * 20_000 + [2.0] * 1500:
            histogram.add(latency)
        assert histogram.quantile(0.5) == pytest.approx(2, rel=0.1)
        assert len(histogram) <= 1000
        for _ in range(20_000):
            histogram.add(2.0)
        assert histogram.quantile(0.0) == pytest.approx(2, rel=0.1), "the old ones are forgotten for good"
        assert histogram.quantile(1.0) == pytest.approx(2, rel=0.1)

    @pytest.mark.parametrize(("latency", "shown"), [(0.0, 0.00109), (1e-9, 0.00109), (1e9, 962.0)])
    def test_beyond_its_ends_takes_the_nearest_bucket(self, latency, shown):
        histogram = LatencyHistogram()
        histogram.add(latency)
        assert histogram.quantile(0.5) == pytest.approx(shown, rel=0.01)


class TestPeak:
    def test_rises_at_once_and_comes_down_by_e_every_ten_seconds(self):
        made = view(0.01)
        made.answered(1, 10.0, Usage(0, 50), 0)
        assert made.peak == pytest.approx(0.1)
        assert made.pace < 0.02
        made.answered(11, 1.0, Usage(0, 50), 0)
        assert made.peak == pytest.approx(0.01 + 0.09 * exp(-1))

    def test_is_not_brought_down_by_a_burst(self):
        made = view(0.1)
        for _ in range(100):
            made.answered(0, 1.0, Usage(0, 50), 0)
        assert made.peak == pytest.approx(0.1)

    def test_rises_with_a_lost_race(self):
        made = view(0.01)
        made.lost(1, 10.0, Usage(0, 50), 0)
        assert made.peak == pytest.approx(0.1)


def test_the_load_is_an_average_of_what_was_in_flight_when_answered_calls_began():
    made = CandidateView("a")
    made.answered(0, 1.0, None, 0, 9)
    assert made.load == 9
    made.answered(0, 1.0, None, 0, 19)
    assert made.load == pytest.approx(10)


class TestSuccessShare:
    def test_is_one_for_who_was_never_asked_or_never_failed(self):
        assert CandidateView("a").success_share(0) == view(0.01).success_share(0) == 1.0

    def test_counts_answers_and_failures_with_one_answer_for_a_start(self):
        made = CandidateView("a")
        for _ in range(3):
            made.failed(0, None)
        for _ in range(6):
            made.answered(0, 1.0, None, 0)
        assert made.success_share(0) == pytest.approx(0.7)

    def test_forgets_by_e_every_minute(self):
        made = CandidateView("a")
        for _ in range(10):
            made.failed(0, None)
        assert made.success_share(60) == pytest.approx(1 - 10 * exp(-1) / (10 * exp(-1) + 1))
        for at in range(60, 1200, 30):
            made.answered(at, 1.0, None, 0)
        assert made.success_share(1200) == 1.0


class TestPenalised:
    def test_while_the_failure_counts_for_more_than_the_pace(self):
        made = view(0.05)
        assert not made.penalised(0)
        made.failed(0, None)  # four times the pace
        assert made.penalised(13)
        assert not made.penalised(14)  # 10 ln 4 = 13.9 s

    def test_is_over_after_46_seconds_however_fast_it_was(self):
        made = view(0.0)
        made.failed(0, None)
        assert made.penalised(45)
        assert not made.penalised(47)


def test_a_price_needs_input_and_output_prices():
    made = CandidateView("a")
    assert made.price(10, 10) is None
    made.input_price, made.output_price = 1.0, 2.0
    assert made.price(1_000_000, 500_000, 400_000) == pytest.approx(2.0)
    made.cached_input_price = 0.5
    assert made.price(1_000_000, 500_000, 400_000) == pytest.approx(1.8)
