"""The breaker's semantics, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import logging
import pickle
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf, nan

import aiobreaker
import pytest
from aiobreaker import CircuitBreakerState as State
from aiobreaker.storage.memory import CircuitMemoryStorage

from orchestrator.core.clock import Random, wall_clock
from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import (
    AuthenticationError,
    CircuitOpenError,
    InvalidRequestError,
    OrchestratorError,
    RateLimitError,
    ServerError,
    Verdict,
)
from orchestrator.resilience.breaker import BreakerOpenError, ProviderBreaker
from orchestrator.resilience.breaks import time_left
from orchestrator.resilience.deadline import EPSILON

SUCCESS, FAILURE, NEUTRAL, LIMITED, CREDENTIALS, OVERLOADED = (
    Verdict.SUCCESS, Verdict.FAILURE, Verdict.NEUTRAL, Verdict.LIMITED, Verdict.CREDENTIALS, Verdict.OVERLOADED,
)


class Clock:
    """Moved by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def events():
    return []


@pytest.fixture
def make(clock, events):
    """A breaker on that clock which takes fields of its policy by name, and by default has no jitter and no ramp.

    Refused credentials, the shortest way to open it, take it out for no longer than anything else does.
    """

    def make(listeners=(), exclude=(), state_storage=None, random=None, **policy):
        plain = {"break_jitter": 0, "ramp": 0, "credentials_break": policy.get("break_base", 5)}
        settings = BreakerPolicy(**{**plain, **policy})
        return ProviderBreaker(settings, name="giga", clock=clock, on_change=events.append, random=random,
                               listeners=listeners, exclude=exclude, state_storage=state_storage)

    return make


def calls(breaker, *verdicts, **options):
    for verdict in verdicts:
        breaker.release(breaker.acquire(), verdict, **options)


def trip(breaker, **options):
    calls(breaker, CREDENTIALS, **options)


def probe(breaker, clock, verdict, **options):
    clock.now += breaker.wait_time()
    calls(breaker, verdict, **options)


def reasons(events):
    return [event.reason for event in events]


def moves(events):
    return [(event.old, event.new) for event in events]


# ---------------------------------------------------------------- closed


def test_a_new_breaker_is_closed_and_admits(make):
    breaker = make()
    permit = breaker.acquire()
    assert (breaker.phase, breaker.share, breaker.wait_time()) == ("closed", 1.0, 0.0)
    assert (permit.probe, permit.started, permit.generation) == (False, 1000.0, breaker.generation)


def test_who_has_just_read_the_clock_tells_it_the_time(make, clock):
    breaker = make(min_calls=1, slow_call=5, slow_ratio=1)
    permit = breaker.acquire(clock.now - 3)
    assert permit.started == clock.now - 3
    breaker.release(permit, SUCCESS, at=clock.now + 3)
    assert breaker.phase == "open"


def test_it_is_made_and_looked_at_without_a_loop():
    breaker = ProviderBreaker()
    assert (breaker.phase, breaker.wait_time(), breaker.share) == ("closed", 0.0, 1.0)


async def test_by_default_its_clock_is_the_loops():
    await asyncio.sleep(7)
    assert ProviderBreaker().acquire().started == 7


def test_failures_in_a_row_open_it(make, events):
    breaker = make()
    calls(breaker, *[FAILURE] * 4)
    assert breaker.phase == "closed"
    calls(breaker, FAILURE)
    assert breaker.phase == "open"
    assert reasons(events) == ["5 failures in a row"]
    assert (events[0].at, events[0].provider, events[0].retry_after) == (1000.0, "giga", 5.0)


def test_a_success_ends_the_row(make):
    breaker = make()
    calls(breaker, *[FAILURE] * 4, SUCCESS, *[FAILURE] * 4)
    assert breaker.phase == "closed"


def test_overloads_of_one_that_answers_others_are_no_row(make):
    breaker = make(min_calls=1000)
    calls(breaker, SUCCESS, *[OVERLOADED] * 50)
    assert (breaker.phase, breaker.fail_counter) == ("closed", 0)
    calls(breaker, *[FAILURE] * 4, *[OVERLOADED] * 50)
    assert breaker.phase == "closed"
    calls(breaker, FAILURE)
    assert breaker.phase == "open"


def test_overloads_of_one_that_answers_nobody_any_more_are_a_row(make, clock, events):
    breaker = make(min_calls=100, window=60)
    clock.now = 1019.0  # the bucket before the last begins at 1014
    calls(breaker, SUCCESS)
    clock.now = 1025.0
    calls(breaker, *[OVERLOADED] * 5)
    assert breaker.phase == "closed"
    clock.now = 1026.0
    calls(breaker, *[OVERLOADED] * 4)
    assert breaker.phase == "closed"
    calls(breaker, OVERLOADED)
    assert reasons(events) == ["5 failures in a row"]


def test_it_tells_how_many_it_has_answered_lately(make, clock):
    breaker = make(window=60)
    calls(breaker, SUCCESS, FAILURE, SUCCESS)
    assert breaker.answers == 2
    clock.now += 12
    assert breaker.answers == 0


def test_failures_that_were_counted_are_no_answers(make):
    breaker = make(min_calls=100)
    calls(breaker, FAILURE, *[OVERLOADED] * 4)
    assert breaker.phase == "open"


def test_overloads_count_in_the_ratio(make, events):
    breaker = make(min_calls=10)
    calls(breaker, *[SUCCESS] * 5, *[OVERLOADED] * 5)
    assert reasons(events) == ["failure ratio 0.50 of 10 calls"]


def test_the_failure_ratio_opens_it_from_min_calls_on(make, events):
    breaker = make(min_calls=10, failure_ratio=0.6)
    calls(breaker, *[FAILURE, FAILURE, SUCCESS] * 3)
    assert breaker.phase == "closed"
    calls(breaker, FAILURE)
    assert reasons(events) == ["failure ratio 0.70 of 10 calls"]


@pytest.mark.parametrize(("failures", "phase"), [(2, "closed"), (3, "open")])
def test_exactly_the_failure_ratio_opens_it(make, failures, phase):
    breaker = make(min_calls=10, failure_ratio=0.3)
    calls(breaker, *[SUCCESS] * (10 - failures), *[FAILURE] * failures)
    assert breaker.phase == phase


@pytest.mark.parametrize("slow_call", [None, 3])
def test_a_success_never_opens_it(make, slow_call):
    breaker = make(min_calls=4, failure_ratio=0.5, slow_call=slow_call)
    calls(breaker, FAILURE, FAILURE, FAILURE, SUCCESS, SUCCESS)
    assert breaker.phase == "closed"


def test_the_window_forgets(make, clock):
    breaker = make(window=60, min_calls=4)
    calls(breaker, FAILURE, SUCCESS, FAILURE)
    clock.now += 60
    calls(breaker, SUCCESS, FAILURE)
    assert breaker.phase == "closed"
    assert breaker.counts == (2, 1, 0, 0)


def test_the_counts_forget_without_a_call(make, clock):
    breaker = make(window=60)
    calls(breaker, FAILURE)
    assert breaker.counts == (1, 1, 0, 0)
    clock.now += 60
    assert breaker.counts == (0, 0, 0, 0)


def test_slow_calls_open_it(make, clock, events):
    breaker = make(slow_call=3, slow_ratio=0.5, min_calls=4)
    calls(breaker, SUCCESS, SUCCESS, SUCCESS)
    for _ in range(3):
        assert breaker.phase == "closed"
        permit = breaker.acquire()
        clock.now += 4
        breaker.release(permit, SUCCESS)
    assert breaker.phase == "open"
    assert reasons(events) == ["slow calls, 3 of 6"]


def test_a_call_that_is_not_slow_itself_does_not_open_it_for_slow_ones(make):
    breaker = make(slow_call=3, slow_ratio=0.5, min_calls=4, failure_ratio=1)
    calls(breaker, *[SUCCESS] * 3, duration=4)
    calls(breaker, FAILURE, SUCCESS)
    assert breaker.phase == "closed"


def test_a_given_duration_is_what_speed_is_judged_by(make, clock):
    breaker = make(slow_call=3, slow_ratio=0.5, min_calls=2)
    for _ in range(4):
        permit = breaker.acquire()
        clock.now += 4
        breaker.release(permit, SUCCESS, duration=1)
    assert breaker.counts == (4, 0, 0, 0)


def test_speed_is_not_judged_unless_asked_for(make):
    breaker = make(min_calls=1)
    calls(breaker, *[SUCCESS] * 20, duration=1000)
    assert breaker.counts == (20, 0, 0, 0)
    assert breaker.phase == "closed"


def test_neutral_and_limited_calls_count_for_nothing(make):
    breaker = make()
    calls(breaker, *[FAILURE] * 4, *[NEUTRAL, LIMITED] * 10)
    assert (breaker.phase, breaker.fail_counter) == ("closed", 4)
    assert breaker.counts == (4, 4, 0, 0)
    calls(breaker, FAILURE)
    assert breaker.phase == "open"


def test_refused_credentials_open_it_at_once(make, events):
    breaker = make()
    calls(breaker, CREDENTIALS)
    assert breaker.phase == "open"
    assert reasons(events) == ["credentials refused"]


def test_a_permit_counts_once(make):
    breaker = make()
    permit = breaker.acquire()
    for _ in range(9):
        breaker.release(permit, FAILURE)
    assert breaker.counts == (1, 1, 0, 0)


def test_while_open_nothing_is_admitted_and_the_error_says_until_when(make, clock):
    breaker = make()
    trip(breaker)
    clock.now += 2
    assert breaker.wait_time() == 3
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    error = caught.value
    assert (error.provider, error.retry_after, error.verdict) == ("giga", 3.0, NEUTRAL)
    assert str(error) == "giga: the circuit is open: credentials refused (retry after 3 s)"


def test_the_error_is_aiobreakers_too_and_its_times_are_true(make, clock):
    breaker = make()
    trip(breaker)
    with pytest.raises(aiobreaker.CircuitBreakerError) as caught:
        breaker.acquire()
    error = caught.value
    assert isinstance(error, OrchestratorError)
    assert error.time_remaining == timedelta(seconds=5)
    assert abs(error.reopen_time.timestamp() - wall_clock() - 5) < 60
    clock.now += 4
    assert error.time_remaining == timedelta(seconds=1)
    clock.now += 4
    assert error.time_remaining == timedelta(0)


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BreakerOpenError("the circuit is open", provider="giga")))
    assert (error.message, error.provider, error.retry_after) == ("the circuit is open", "giga", None)


def test_breaks_double_up_to_the_maximum(make, clock):
    breaker = make(break_base=5, break_max=30)
    trip(breaker)
    lengths = []
    for _ in range(5):
        lengths.append(breaker.wait_time())
        probe(breaker, clock, FAILURE)
    assert lengths == [5, 10, 20, 30, 30]


def test_one_recovery_does_not_make_breaks_short_again(make, clock):
    breaker = make(break_base=5, window=60)
    trip(breaker)
    probe(breaker, clock, FAILURE)
    probe(breaker, clock, SUCCESS)
    trip(breaker)
    assert breaker.wait_time() == 20


def test_each_healthy_window_makes_the_next_break_one_step_shorter(make, clock):
    breaker = make(break_base=5, window=60)
    trip(breaker)
    for _ in range(3):
        probe(breaker, clock, FAILURE)
    probe(breaker, clock, SUCCESS)
    clock.now += 150  # two windows and a half
    trip(breaker)
    assert breaker.wait_time() == 5 * 2**2


def test_windows_in_the_ramp_are_healthy_ones_too(make, clock):
    breaker = make(break_base=5, window=60, ramp=200)
    trip(breaker)
    probe(breaker, clock, FAILURE)
    probe(breaker, clock, SUCCESS)
    clock.now += 130
    trip(breaker)
    assert breaker.wait_time() == 5


def test_at_the_maximum_healthy_windows_count_from_there(make, clock):
    breaker = make(break_base=5, break_max=20, window=60)
    trip(breaker)
    for _ in range(50):
        probe(breaker, clock, FAILURE)
    probe(breaker, clock, SUCCESS)
    clock.now += 60
    trip(breaker)
    assert breaker.wait_time() == 10


def test_a_break_without_end_tells_no_time(make, events):
    breaker = make(break_base=inf, break_max=inf)
    trip(breaker)
    assert (breaker.wait_time(), events[0].retry_after) == (inf, None)


def test_breaks_are_jittered_by_the_given_source_of_chance(make, clock):
    breaker = make(break_base=10, break_jitter=0.5, random=Random(7))
    trip(breaker)
    assert breaker.wait_time() == pytest.approx(10 * (1 + Random(7).uniform(0, 0.5)))


@pytest.mark.parametrize(
    ("asked", "wait"), [(None, 5), (60, 60), (1, 5), (0, 5), (-60, 5), (nan, 5), (inf, 300), (86_400, 300)],
)
def test_retry_after_lengthens_a_break_but_never_shortens_it(make, asked, wait):
    breaker = make()
    trip(breaker, retry_after=asked)
    assert breaker.wait_time() == wait


def test_a_timer_that_fires_early_does_not_meet_a_closed_door(make, clock):
    breaker = make()
    trip(breaker)
    clock.now += 5 - 1e-9
    assert breaker.wait_time() == 0
    assert breaker.acquire().probe


def test_what_a_timer_may_be_early_by_is_no_time_left():
    assert time_left(EPSILON, 0) == 0
    assert time_left(2 * EPSILON, 0) == 2 * EPSILON


# ---------------------------------------------------------------- late results


@pytest.mark.parametrize("verdict", [SUCCESS, FAILURE, CREDENTIALS, LIMITED, NEUTRAL])
def test_results_of_calls_begun_before_the_trip_are_counted_not_judged(make, clock, events, verdict):
    breaker = make()
    late = [breaker.acquire() for _ in range(20)]
    trip(breaker)
    generation = breaker.generation
    for permit in late[:10]:
        breaker.release(permit, verdict, retry_after=100)
    assert (breaker.phase, breaker.wait_time(), breaker.generation) == ("open", 5, generation)
    assert breaker.counts.late == 10
    probe(breaker, clock, SUCCESS)
    for permit in late[10:]:
        breaker.release(permit, verdict)
    assert breaker.counts == (0, 0, 0, 10)
    assert moves(events) == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


# ---------------------------------------------------------------- half-open


def test_after_the_break_only_as_many_probes_as_set_are_under_way(make, clock, events):
    breaker = make(probes=3)
    trip(breaker)
    clock.now += 5
    assert [breaker.acquire().probe for _ in range(3)] == [True] * 3
    with pytest.raises(CircuitOpenError, match="half-open, its probes are under way"):
        breaker.acquire()
    assert reasons(events) == ["credentials refused", "break over"]


def test_it_closes_after_as_many_successes(make, clock, events):
    breaker = make(probes=2)
    trip(breaker)
    clock.now += 5
    first, second = breaker.acquire(), breaker.acquire()
    breaker.release(first, SUCCESS)
    assert breaker.phase == "half-open"
    assert breaker.wait_time() > 0, "one success and one probe under way are all it needs"
    breaker.release(second, SUCCESS)
    assert breaker.phase == "closed"
    assert reasons(events)[-1] == "probe succeeded"


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(FAILURE, "probe failed"), (LIMITED, "probe was rate-limited"), (CREDENTIALS, "credentials refused")],
)
def test_one_bad_probe_opens_it_again(make, clock, events, verdict, reason):
    breaker = make(probes=2)
    trip(breaker)
    clock.now += 5
    first, second = breaker.acquire(), breaker.acquire()
    breaker.release(first, verdict, retry_after=77)
    assert (breaker.phase, breaker.wait_time(), reasons(events)[-1]) == ("open", 77, reason)
    breaker.release(second, SUCCESS)
    assert breaker.phase == "open"


def test_the_probes_of_each_break_are_counted_anew(make, clock):
    breaker = make(probes=2)
    for _ in range(2):
        trip(breaker)
        clock.now += breaker.wait_time()
        calls(breaker, SUCCESS)
        assert breaker.phase == "half-open"
        calls(breaker, SUCCESS)
        assert breaker.phase == "closed"


def test_a_slow_probe_opens_it_again(make, clock, events):
    breaker = make(slow_call=3)
    trip(breaker)
    probe(breaker, clock, SUCCESS, duration=4)
    assert (breaker.phase, reasons(events)[-1]) == ("open", "probe was slow")
    probe(breaker, clock, SUCCESS, duration=3)
    assert breaker.phase == "closed"


def test_a_neutral_probe_gives_its_slot_back(make, clock):
    breaker = make()
    trip(breaker)
    clock.now += 5
    permit = breaker.acquire()
    assert breaker.wait_time() == 60
    breaker.release(permit, NEUTRAL)
    assert (breaker.phase, breaker.wait_time()) == ("half-open", 0)
    assert breaker.acquire().probe


def test_a_hung_probe_is_a_failed_one_from_its_deadline_on(make, clock, events):
    breaker = make(probe_timeout=20, probes=2)
    trip(breaker)
    clock.now += 5
    hung = breaker.acquire()
    clock.now += 8
    breaker.acquire()
    assert breaker.wait_time() == 12, "the oldest probe's deadline"
    clock.now += 13
    assert breaker.wait_time() == 9, "a break of 10 s that began at the deadline, 1 s ago"
    assert (reasons(events)[-1], events[-1].retry_after) == ("probe timed out", 9)
    breaker.release(hung, SUCCESS)
    assert (breaker.phase, breaker.counts.late) == ("open", 1)


@pytest.mark.parametrize("look", ["acquire", "phase", "share", "release"])
def test_a_hung_probe_is_noticed_whoever_looks(make, clock, events, look):
    breaker = make(probe_timeout=20)
    trip(breaker)
    clock.now += 5
    hung = breaker.acquire()
    clock.now += 20
    if look == "acquire":
        with pytest.raises(CircuitOpenError):
            breaker.acquire()
    elif look == "release":
        breaker.release(hung, SUCCESS)
    else:
        getattr(breaker, look)
    assert events[-1].new == "open"


def test_after_a_long_silence_the_next_call_is_a_probe_at_once(make, clock, events):
    breaker = make(probe_timeout=20)
    trip(breaker)
    clock.now += 5
    breaker.acquire()
    clock.now += 3600
    assert breaker.acquire().probe
    assert moves(events)[-3:] == [("open", "half-open"), ("half-open", "open"), ("open", "half-open")]


def test_a_stream_that_opens_ends_the_probing_however_long_it_runs(make, clock, events):
    breaker = make(probe_timeout=20)
    trip(breaker)
    clock.now += 5
    permit = breaker.acquire()
    clock.now += 10
    breaker.opened(permit)
    breaker.opened(permit)
    assert breaker.phase == "closed"
    clock.now += 600
    breaker.release(permit, FAILURE)
    assert breaker.counts == (1, 1, 0, 0), "what comes after is judged as that of any call"


def test_an_opened_probe_counts_as_success_once_and_may_still_fail(make, clock, events):
    breaker = make(probes=2)
    trip(breaker)
    clock.now += 5
    opened = breaker.acquire()
    breaker.opened(opened)
    second = breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    breaker.release(opened, FAILURE)
    assert (breaker.phase, reasons(events)[-1]) == ("open", "probe failed")
    breaker.release(second, SUCCESS)
    assert breaker.phase == "open"


def test_a_stream_that_opens_slowly_or_too_late_is_no_success(make, clock, events):
    breaker = make(slow_call=3, probe_timeout=20)
    for wait, reason in ((4, "probe was slow"), (21, "probe timed out")):
        breaker.reset()
        trip(breaker)
        clock.now += 5
        permit = breaker.acquire()
        clock.now += wait
        breaker.opened(permit)
        assert (breaker.phase, reasons(events)[-1]) == ("open", reason)
        breaker.release(permit, SUCCESS)
        assert breaker.counts.late == 1


def test_a_stream_that_opens_quickly_is_a_success_where_speed_is_judged(make, clock):
    breaker = make(slow_call=3, probes=1)
    trip(breaker)
    clock.now += 5
    permit = breaker.acquire()
    clock.now += 2
    breaker.opened(permit)
    assert breaker.phase == "closed"


def test_opening_means_nothing_outside_of_probing(make):
    breaker = make()
    permit = breaker.acquire()
    breaker.opened(permit)
    breaker.release(permit, FAILURE)
    assert breaker.counts == (1, 1, 0, 0)


# ---------------------------------------------------------------- ramp


def test_after_closing_the_share_grows_over_the_ramp(make, clock, events):
    breaker = make(ramp=10)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    shares = []
    for _ in range(5):
        shares.append((breaker.phase, round(breaker.share, 3)))
        clock.now += 2.5
    assert shares == [("ramp", 0.1), ("ramp", 0.25), ("ramp", 0.5), ("ramp", 0.75), ("closed", 1.0)]
    assert moves(events)[-2:] == [("half-open", "ramp"), ("ramp", "closed")]
    assert reasons(events)[-1] == "ramp over"


def test_a_ramp_of_less_than_a_second_is_one_too(make, clock, events):
    breaker = make(ramp=0.5)
    trip(breaker)
    generation = breaker.generation
    probe(breaker, clock, SUCCESS)
    assert breaker.phase == "ramp"
    assert breaker.generation == generation + 2, "half-open and closed"
    assert [event.retry_after for event in events] == [5, None, None]


def test_calls_begun_in_the_ramp_are_judged_after_it(make, clock):
    breaker = make(ramp=10)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    permits = [breaker.acquire() for _ in range(5)]
    clock.now += 11
    for permit in permits:
        breaker.release(permit, FAILURE)
    assert breaker.phase == "open"


def test_a_failure_pattern_in_the_ramp_opens_it(make, clock, events):
    breaker = make(ramp=10)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    calls(breaker, SUCCESS, *[FAILURE] * 5)
    assert moves(events)[-1] == ("ramp", "open")


# ---------------------------------------------------------------- refused credentials


def test_refused_credentials_are_asked_about_rarely(make, clock):
    breaker = make(credentials_break=60)
    waits = []
    for _ in range(5):
        probe(breaker, clock, CREDENTIALS)
        waits.append(breaker.wait_time())
    assert waits == [60, 120, 240, 300, 300]


def test_all_breaks_grow_together_whatever_they_are_for(make, clock):
    breaker = make(credentials_break=60)
    waits = []
    for verdict in (CREDENTIALS, FAILURE, CREDENTIALS, FAILURE):
        probe(breaker, clock, verdict)
        if breaker.phase == "closed":
            breaker.open()
        waits.append(breaker.wait_time())
    assert waits == [60, 10, 240, 40]


def test_a_break_for_credentials_is_jittered_and_no_longer_than_the_maximum(make):
    breaker = make(credentials_break=60, break_jitter=0.5, random=Random(7))
    trip(breaker)
    assert breaker.wait_time() == pytest.approx(60 * (1 + Random(7).uniform(0, 0.5)))
    breaker = make(credentials_break=60, break_max=30)
    trip(breaker)
    assert breaker.wait_time() == 30


def test_it_tells_whether_refused_credentials_keep_it_open(make, clock):
    breaker = make()
    told = [breaker.credentials_refused]
    trip(breaker)
    told.append(breaker.credentials_refused)
    clock.now += 5
    breaker.release(breaker.acquire(), NEUTRAL)
    told.append((breaker.phase, breaker.credentials_refused))
    probe(breaker, clock, FAILURE)
    told.append(breaker.credentials_refused)
    probe(breaker, clock, CREDENTIALS)
    told.append(breaker.credentials_refused)
    probe(breaker, clock, SUCCESS)
    told.append(breaker.credentials_refused)
    assert told == [False, True, ("half-open", True), False, True, False]


@pytest.mark.parametrize("verb", ["reset", "isolate"])
def test_by_hand_refused_credentials_are_forgotten(make, verb):
    breaker = make()
    trip(breaker)
    getattr(breaker, verb)()
    assert breaker.credentials_refused is False


# ---------------------------------------------------------------- the last resort


def opened(make, **policy):
    breaker = make(**policy)
    breaker.open()
    return breaker


def last_resort(breaker, verdict, **options):
    breaker.release(breaker.acquire(last_resort=True), verdict, **options)


def test_as_the_last_resort_an_open_one_gives_a_probe(make, clock, events):
    breaker = opened(make, ramp=10)
    clock.now += 1
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    permit = breaker.acquire(last_resort=True)
    assert (permit.probe, breaker.phase) == (True, "half-open")
    breaker.release(permit, SUCCESS)
    assert breaker.phase == "ramp"
    assert reasons(events) == ["opened by hand", "last resort", "probe succeeded"]


def test_where_a_call_is_admitted_anyway_the_last_resort_is_nothing_special(make, clock, events):
    breaker = make()
    assert breaker.last_resort_wait() == 0
    assert breaker.acquire(last_resort=True).probe is False
    breaker.open()
    clock.now += 5
    assert breaker.last_resort_wait() == 0
    assert breaker.acquire(last_resort=True).probe
    assert reasons(events) == ["opened by hand", "break over"]


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(FAILURE, "probe failed"), (LIMITED, "probe was rate-limited"), (NEUTRAL, "probe undecided")],
)
def test_after_a_last_resort_probe_that_does_not_succeed_the_break_goes_on(make, clock, events, verdict, reason):
    breaker = opened(make)
    for left in (4, 3, 2, 1):
        clock.now += 1
        last_resort(breaker, verdict)
        assert (breaker.phase, breaker.wait_time()) == ("open", left)
        assert (reasons(events)[-1], events[-1].retry_after) == (reason, left)
    clock.now += 1
    calls(breaker, FAILURE)
    assert breaker.wait_time() == 10, "and the next break is as long as without them"


def test_a_busy_outage_of_a_minute_does_not_make_breaks_longer_by_its_last_resort_probes(make, clock, events):
    quiet, busy = opened(make), opened(make)
    for _ in range(60):
        clock.now += 1
        for breaker, desperate in ((quiet, False), (busy, True)):
            if not breaker.wait_time():
                calls(breaker, FAILURE)
            elif desperate:
                last_resort(breaker, FAILURE)
    assert busy.wait_time() == quiet.wait_time() == 15  # 5 + 10 + 20 + 40 s


def test_a_last_resort_probe_that_fails_after_the_break_is_the_probe_after_it(make, clock):
    breaker = opened(make)
    clock.now += 4
    permit = breaker.acquire(last_resort=True)
    clock.now += 2
    breaker.release(permit, FAILURE)
    assert breaker.wait_time() == 10


@pytest.mark.parametrize(("probe_timeout", "looked", "wait"), [(2, 2.5, 1.5), (20, 25, 5)])
def test_a_hung_last_resort_probe_fails_at_its_deadline(make, clock, probe_timeout, looked, wait):
    breaker = opened(make, probe_timeout=probe_timeout)
    clock.now += 1
    breaker.acquire(last_resort=True)
    clock.now += looked
    assert (breaker.phase, breaker.wait_time()) == ("open", wait)


@pytest.mark.parametrize(("asked", "wait"), [(1, 4), (60, 60), (nan, 4), (86_400, 300)])
def test_a_last_resort_probe_may_be_told_to_come_later_still(make, clock, asked, wait):
    breaker = opened(make)
    clock.now += 1
    last_resort(breaker, FAILURE, retry_after=asked)
    assert breaker.wait_time() == wait


def test_refused_credentials_are_news_for_a_last_resort_probe(make, clock):
    breaker = opened(make, credentials_break=60)
    clock.now += 1
    last_resort(breaker, CREDENTIALS)
    assert (breaker.credentials_refused, breaker.wait_time()) == (True, 120)
    breaker = opened(make, credentials_break=1, break_base=60)
    clock.now += 10
    last_resort(breaker, CREDENTIALS)
    assert breaker.wait_time() == 50, "what was left of the break is more"


def test_last_resort_probes_are_a_tenth_of_a_break_apart(make, clock):
    breaker = opened(make)
    probes = []
    for _ in range(3000):
        clock.now += 0.001
        if breaker.last_resort_wait():
            with pytest.raises(CircuitOpenError):
                breaker.acquire(last_resort=True)
        else:
            probes.append(round(clock.now, 2))
            last_resort(breaker, FAILURE)
    assert probes == [1000.5, 1001, 1001.5, 1002, 1002.5, 1003]


def test_the_spacing_counts_from_the_end_of_the_probe(make, clock):
    breaker = opened(make)
    clock.now += 1
    permit = breaker.acquire(last_resort=True)
    clock.now += 2
    breaker.release(permit, FAILURE)
    assert breaker.last_resort_wait() == 0.5


def test_the_refusal_of_a_last_resort_says_when_one_is_admitted(make, clock):
    breaker = opened(make)
    clock.now += 0.25
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire(last_resort=True)
    assert caught.value.retry_after == breaker.last_resort_wait() == 0.25
    assert breaker.wait_time() == 4.75


def test_last_resort_probes_are_sent_one_after_the_other(make, clock):
    breaker = opened(make, probes=3, probe_timeout=20)
    clock.now += 1
    first = breaker.acquire(last_resort=True)
    for desperate in (True, False):
        with pytest.raises(CircuitOpenError, match="probes are under way"):
            breaker.acquire(last_resort=desperate)
    assert (breaker.last_resort_wait(), breaker.wait_time()) == (4, 4)
    clock.now += 4
    assert breaker.acquire().probe, "the break would be over by now"
    breaker.release(first, SUCCESS)
    assert breaker.phase == "half-open"


def test_after_the_first_success_the_others_are_asked_for_without_a_last_resort(make, clock):
    breaker = opened(make, probes=2)
    clock.now += 1
    last_resort(breaker, SUCCESS)
    calls(breaker, NEUTRAL)
    assert breaker.phase == "half-open"
    calls(breaker, SUCCESS)
    assert breaker.phase == "closed"


def test_a_later_probe_of_a_break_cut_short_may_fail_it_too(make, clock):
    breaker = opened(make, probes=2)
    clock.now += 1
    last_resort(breaker, SUCCESS)
    calls(breaker, FAILURE)
    assert (breaker.phase, breaker.wait_time()) == ("open", 4)


def test_refused_credentials_are_not_asked_about_as_the_last_resort(make, clock):
    breaker = make(credentials_break=60)
    trip(breaker)
    clock.now += 20
    assert breaker.last_resort_wait() == breaker.wait_time() == 40
    with pytest.raises(CircuitOpenError, match="credentials refused"):
        breaker.acquire(last_resort=True)
    clock.now += 40
    assert breaker.acquire(last_resort=True).probe


def test_an_isolated_one_is_nobodys_last_resort(make, clock):
    breaker = opened(make)
    breaker.isolate()
    clock.now += 1
    assert breaker.last_resort_wait() == inf
    with pytest.raises(CircuitOpenError, match="isolated"):
        breaker.acquire(last_resort=True)


def test_a_break_that_a_lucky_probe_has_cut_short_is_resumed_by_the_next_trip(make, clock):
    breaker = opened(make, break_base=40)
    clock.now += 10
    last_resort(breaker, SUCCESS)
    clock.now += 5
    calls(breaker, *[FAILURE] * 5)
    assert breaker.wait_time() == 25
    clock.now += 25
    calls(breaker, FAILURE)
    assert breaker.wait_time() == 80


def test_a_call_cancelled_after_a_lucky_probe_is_no_trip(make, clock):
    breaker = opened(make, break_base=40)
    clock.now += 10
    last_resort(breaker, SUCCESS)
    calls(breaker, NEUTRAL)
    assert breaker.phase == "closed"


def test_after_a_healthy_window_there_is_nothing_to_resume(make, clock):
    breaker = opened(make, break_base=100, window=20)
    clock.now += 10
    last_resort(breaker, SUCCESS)
    clock.now += 20
    calls(breaker, *[FAILURE] * 5)
    assert breaker.wait_time() == 100


@pytest.mark.parametrize("verb", ["reset", "open", "half_open"])
def test_by_hand_there_is_nothing_to_resume_either(make, clock, verb):
    breaker = opened(make, break_base=40)
    clock.now += 10
    last_resort(breaker, SUCCESS)
    getattr(breaker, verb)()
    if breaker.phase != "open":
        calls(breaker, *[FAILURE] * 5 if breaker.phase == "closed" else [FAILURE])
    assert breaker.wait_time() == (40 if verb == "reset" else 80)


def test_it_says_why_it_is_as_it_is(make, clock):
    breaker = make(ramp=10)
    told = [breaker.reason]
    calls(breaker, *[FAILURE] * 5)
    told.append(breaker.reason)
    clock.now += 1
    permit = breaker.acquire(last_resort=True)
    told.append(breaker.reason)
    breaker.release(permit, SUCCESS)
    told.append(breaker.reason)
    clock.now += 10
    told.append(breaker.reason)
    assert told == [None, "5 failures in a row", "last resort", "probe succeeded", "ramp over"]


# ---------------------------------------------------------------- flapping


def a_call_a_second(breaker, clock, seconds, well):
    """How many of them reached the provider."""
    sent = 0
    for _ in range(seconds):
        clock.now += 1
        if not breaker.wait_time():
            calls(breaker, SUCCESS if well(clock.now) else FAILURE)
            sent += 1
    return sent


def test_a_provider_that_comes_and_goes_for_an_hour_gets_longer_breaks_and_then_short_ones_again(make, clock, events):
    breaker = make(ramp=10)
    begun = clock.now
    sent = a_call_a_second(breaker, clock, 3600, lambda at: (at - begun) % 20 < 10)
    breaks = [event.retry_after for event in events if event.new == "open"]
    assert breaks[:7] == [5, 10, 20, 40, 80, 160, 300]
    assert set(breaks[7:]) == {300}
    assert len(breaks) <= 7 + 3600 // 300
    assert sent < 3600 / 10, "it is up half of the time, but nobody relies on it"

    a_call_a_second(breaker, clock, 300 + 7 * 60 + 10, lambda _: True)
    assert breaker.phase == "closed"
    events.clear()
    a_call_a_second(breaker, clock, 5, lambda _: False)
    assert [event.retry_after for event in events] == [5]


# ---------------------------------------------------------------- by hand, disabled


def test_isolated_it_admits_nothing_until_reset(make, clock, events):
    breaker = make()
    breaker.isolate()
    breaker.isolate()
    clock.now += 1e6
    assert (breaker.phase, breaker.wait_time()) == ("isolated", inf)
    with pytest.raises(CircuitOpenError, match="isolated by hand") as caught:
        breaker.acquire()
    assert caught.value.retry_after is None
    assert caught.value.time_remaining == timedelta.max
    breaker.reset()
    assert (breaker.phase, breaker.wait_time()) == ("closed", 0)
    assert [(e.new, e.reason, e.retry_after) for e in events] == [
        ("isolated", "isolated", None), ("closed", "reset", None),
    ]


@pytest.mark.parametrize("verb", ["isolate", "reset"])
def test_by_hand_too_what_time_has_brought_about_is_told_first(make, clock, events, verb):
    breaker = make(ramp=10)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    clock.now += 11
    getattr(breaker, verb)()
    assert [event.reason for event in events][3] == "ramp over"


def test_to_isolate_it_once_more_changes_nothing(make, events):
    breaker = make()
    breaker.isolate()
    generation = breaker.generation
    breaker.isolate()
    assert (breaker.generation, len(events)) == (generation, 1)


@pytest.mark.parametrize("verdict", [SUCCESS, FAILURE, CREDENTIALS])
def test_no_result_lifts_an_isolation(make, clock, verdict):
    breaker = make()
    trip(breaker)
    clock.now += 5
    permit = breaker.acquire()
    breaker.isolate()
    breaker.release(permit, verdict)
    assert breaker.phase == "isolated"


def test_reset_forgets_everything(make, clock, events):
    breaker = make(break_base=5)
    calls(breaker, *[FAILURE] * 4)
    under_way = breaker.acquire()
    generation = breaker.generation
    breaker.reset()
    breaker.release(under_way, CREDENTIALS)
    assert (breaker.phase, breaker.fail_counter, events) == ("closed", 0, [])
    assert breaker.counts == (0, 0, 0, 1)
    assert breaker.generation > generation
    for _ in range(3):
        trip(breaker)
        breaker.reset()
    trip(breaker)
    assert breaker.wait_time() == 5, "nor does it remember earlier breaks"


def test_reset_while_ramping_forgets_the_calls_under_way_too(make, clock):
    breaker = make(ramp=10, consecutive_failures=1)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    under_way = breaker.acquire()
    breaker.reset()
    breaker.release(under_way, FAILURE)
    assert (breaker.phase, breaker.share) == ("closed", 1)


def test_disabled_it_only_counts(make, events):
    breaker = make(enabled=False)
    calls(breaker, *[FAILURE] * 50, CREDENTIALS, SUCCESS)
    assert (breaker.phase, breaker.wait_time(), breaker.share, events) == ("disabled", 0, 1, [])
    assert breaker.counts == (52, 51, 0, 0)


def test_a_disabled_one_can_be_isolated_and_goes_back_to_disabled(make):
    breaker = make(enabled=False)
    breaker.isolate()
    assert breaker.wait_time() == inf
    breaker.reset()
    assert breaker.phase == "disabled"


def test_open_and_half_open_by_hand(make, clock, events):
    breaker = make()
    breaker.open()
    breaker.open()
    assert breaker.wait_time() == 5
    breaker.half_open()
    assert breaker.acquire().probe
    breaker.close()
    assert moves(events) == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    for breaker in (make(enabled=False), isolated := make()):
        isolated.isolate()
        before = breaker.phase
        breaker.open()
        breaker.half_open()
        assert breaker.phase == before


@pytest.mark.parametrize(("before", "successes"), [("half-open", 0), ("ramp", 1)])
@pytest.mark.parametrize(("verb", "after"), [("open", "open"), ("half_open", "half-open")])
def test_by_hand_a_returning_one_is_opened_and_probed_anew(make, clock, before, successes, verb, after):
    breaker = make(ramp=10, probes=1)
    trip(breaker)
    clock.now += 5
    permit = breaker.acquire()
    if successes:
        breaker.release(permit, SUCCESS)
    assert breaker.phase == before
    getattr(breaker, verb)()
    assert breaker.phase == after


def test_every_verb_tells_of_the_change_before_it_returns(make, events):
    breaker = make()
    for number, verb in enumerate((breaker.open, breaker.half_open, breaker.isolate, breaker.reset), 1):
        verb()
        assert len(events) == number


# ---------------------------------------------------------------- listeners and storage


class Recorder(aiobreaker.CircuitBreakerListener):
    def __init__(self):
        self.seen = []

    def before_call(self, breaker, func, *args, **kwargs):
        self.seen.append(("before", args, kwargs))

    def success(self, breaker):
        self.seen.append("success")

    def failure(self, breaker, exception):
        self.seen.append(("failure", type(exception).__name__))

    def state_change(self, breaker, old, new):
        self.seen.append((old.state.name, new.state.name, breaker.current_state.name, breaker.fail_counter))


class Raising(aiobreaker.CircuitBreakerListener):
    def before_call(self, breaker, func, *args, **kwargs):
        raise ValueError

    success = failure = state_change = before_call


def test_listeners_of_aiobreaker_are_told_of_its_states_only(make, clock):
    breaker = make(listeners=[recorder := Recorder()], ramp=10, consecutive_failures=2)
    calls(breaker, FAILURE, FAILURE)
    probe(breaker, clock, SUCCESS)
    clock.now += 10
    assert breaker.phase == "closed"
    breaker.open()
    breaker.isolate()
    assert recorder.seen == [
        ("CLOSED", "OPEN", "OPEN", 2), ("OPEN", "HALF_OPEN", "HALF_OPEN", 0), ("HALF_OPEN", "CLOSED", "CLOSED", 0),
        ("CLOSED", "OPEN", "OPEN", 0),
    ]


async def test_a_listener_that_raises_changes_nothing_and_is_logged(make, clock, caplog):
    breaker = make(listeners=[Raising(), recorder := Recorder()], consecutive_failures=1)

    def on_change(event):
        raise KeyError

    breaker._on_change = on_change

    async def boom():
        raise ServerError("down")

    with caplog.at_level(logging.ERROR), pytest.raises(ServerError):
        await breaker.call_async(boom)
    assert breaker.phase == "open"
    assert recorder.seen == [("before", (), {}), ("CLOSED", "OPEN", "OPEN", 1), ("failure", "ServerError")]
    assert [record.name for record in caplog.records] == ["orchestrator"] * 4


def test_a_listener_that_acts_on_the_breaker_is_told_the_rest_in_order(clock):
    seen = []

    def on_change(event):
        seen.append(event.new)
        if event.new == "open":
            breaker.isolate()
            seen.append("acted")

    breaker = ProviderBreaker(BreakerPolicy(ramp=0), clock=clock, on_change=on_change)
    trip(breaker)
    assert seen == ["open", "acted", "isolated"]
    assert breaker.phase == "isolated"


def test_the_storage_is_in_step(make, clock):
    storage = CircuitMemoryStorage(State.CLOSED)
    breaker = make(state_storage=storage, consecutive_failures=3)
    calls(breaker, FAILURE, FAILURE)
    assert (storage.counter, breaker.fail_counter) == (2, 2)
    calls(breaker, SUCCESS)
    assert storage.counter == 0
    calls(breaker, *[FAILURE] * 3)
    assert (storage.state, storage.counter) == (State.OPEN, 3)
    assert storage.opened_at.tzinfo is None
    assert abs(storage.opened_at.replace(tzinfo=UTC).timestamp() - wall_clock()) < 60
    clock.now += 5
    breaker.acquire()
    assert storage.state is State.HALF_OPEN
    breaker.reset()
    assert (storage.state, storage.counter) == (State.CLOSED, 0)


def test_breakers_that_share_a_storage_open_and_close_together(make, clock, events):
    storage = CircuitMemoryStorage(State.CLOSED)
    one, other = make(state_storage=storage), make(state_storage=storage, break_base=60)
    trip(one)
    assert (other.phase, other.wait_time()) == ("open", 60)
    assert reasons(events)[-1] == "opened by another breaker"
    probe(one, clock, SUCCESS)
    assert (other.phase, other.wait_time()) == ("closed", 0)
    assert reasons(events)[-1] == "closed by another breaker"
    assert other.acquire().probe is False
    trip(one)
    clock.now += 10
    one.acquire()
    assert other.phase == "open", "one is probing: that is no reason to send calls"


def test_a_breaker_follows_what_another_has_found_out_while_it_was_probing(make, clock):
    storage = CircuitMemoryStorage(State.OPEN)
    breaker = make(state_storage=storage)
    assert breaker.wait_time() == 5
    clock.now += 5
    breaker.acquire()
    storage.state = State.OPEN
    assert breaker.phase == "open"


def test_a_breaker_follows_another_that_closes_while_it_is_probing_itself(make, clock):
    storage = CircuitMemoryStorage(State.CLOSED)
    breaker = make(state_storage=storage)
    trip(breaker)
    clock.now += 5
    breaker.acquire()
    storage.state = State.CLOSED
    assert breaker.phase == "closed"


@pytest.mark.parametrize("ramp", [0, 10])
def test_a_breaker_that_is_back_stops_where_another_is_probing_again(make, clock, ramp):
    storage = CircuitMemoryStorage(State.CLOSED)
    breaker = make(state_storage=storage, ramp=ramp)
    trip(breaker)
    probe(breaker, clock, SUCCESS)
    assert breaker.phase == ("ramp" if ramp else "closed")
    storage.state = State.HALF_OPEN
    assert breaker.phase == "open"


@pytest.mark.parametrize("settings", [{}, {"enabled": False}])
def test_an_isolated_or_disabled_breaker_follows_nobody(make, settings):
    storage = CircuitMemoryStorage(State.CLOSED)
    breaker = make(state_storage=storage, **settings)
    if not settings:
        breaker.isolate()
    before = breaker.phase
    storage.state = State.OPEN if settings else State.CLOSED
    assert breaker.phase == before


def test_a_storage_that_fails_changes_nothing(make, clock, caplog):
    class Broken(CircuitMemoryStorage):
        @property
        def state(self):
            raise OSError

        @state.setter
        def state(self, state):
            raise OSError

        def increment_counter(self):
            raise OSError

    breaker = make(state_storage=Broken(State.CLOSED), consecutive_failures=2)
    calls(breaker, FAILURE, FAILURE)
    assert (breaker.phase, breaker.current_state) == ("open", State.OPEN)
    probe(breaker, clock, SUCCESS)
    assert breaker.phase == "closed"


# ---------------------------------------------------------------- the vocabulary of aiobreaker


def test_state_can_be_read_and_assigned(make, clock):
    breaker = make()
    for state, phase in ((State.OPEN, "open"), (State.HALF_OPEN, "half-open"), (State.CLOSED, "closed")):
        breaker.state = state
        assert (breaker.phase, breaker.current_state, breaker.state.state) == (phase, state, state)


def test_reading_the_state_makes_up_for_the_time_that_has_passed(make, clock):
    breaker = make(probe_timeout=20)
    trip(breaker)
    clock.now += 5
    breaker.acquire()
    clock.now += 20
    assert breaker.state.state is State.OPEN


def test_thresholds_can_be_read_and_assigned(make):
    breaker = make()
    breaker.fail_max = 2
    breaker.timeout_duration = timedelta(minutes=10)
    assert (breaker.fail_max, breaker.timeout_duration, breaker.name) == (2, timedelta(minutes=10), "giga")
    calls(breaker, FAILURE, FAILURE)
    assert breaker.wait_time() == 600


def test_opens_at_is_the_end_of_the_break(make, clock):
    breaker = make()
    assert (breaker.opens_at, breaker.time_until_open) == (None, None)
    trip(breaker)
    assert breaker.time_until_open == timedelta(seconds=5)
    assert abs(breaker.opens_at.timestamp() - wall_clock() - 5) < 9
    clock.now += 5
    assert (breaker.opens_at, breaker.time_until_open) == (None, None)
    breaker.acquire()
    assert (breaker.opens_at, breaker.time_until_open) == (None, None)
    breaker.isolate()
    assert (breaker.opens_at, breaker.time_until_open) == (datetime.max.replace(tzinfo=UTC), timedelta.max)


async def test_sleep_until_open_returns_when_a_call_may_be_admitted():
    breaker = ProviderBreaker()
    loop = asyncio.get_running_loop()
    await breaker.sleep_until_open()
    assert loop.time() == 0
    trip(breaker)
    with pytest.raises(BreakerOpenError) as caught:
        breaker.acquire()
    sleeper = asyncio.create_task(breaker.sleep_until_open())
    await caught.value.sleep_until_open()
    await sleeper
    assert breaker.acquire().probe
    breaker.isolate()
    loop.call_later(1000, breaker.reset)
    await breaker.sleep_until_open()
    assert breaker.phase == "closed"


async def test_the_errors_sleep_ends_with_the_break_however_late_it_begins():
    breaker = ProviderBreaker(BreakerPolicy(break_base=5, break_jitter=0, credentials_break=5))
    loop = asyncio.get_running_loop()
    await asyncio.sleep(100)
    trip(breaker)
    with pytest.raises(BreakerOpenError) as caught:
        breaker.acquire()
    await asyncio.sleep(3)
    await asyncio.gather(caught.value.sleep_until_open(), breaker.sleep_until_open())
    assert loop.time() == 105
    await caught.value.sleep_until_open()
    assert loop.time() == 105


async def test_who_sleeps_for_the_wait_time_is_admitted():
    random = Random(3)
    breaker = ProviderBreaker(BreakerPolicy(break_base=0.1), random=random)
    trip(breaker)
    for _ in range(200):
        await asyncio.sleep(breaker.wait_time())
        calls(breaker, FAILURE)


# ---------------------------------------------------------------- whole calls


async def boom():
    raise ValueError("down")


async def fine(value="fine", *, delay=0.0):
    await asyncio.sleep(delay)
    return value


@pytest.fixture
def live(events):
    """A breaker on the loop's clock that opens on the second failure."""
    policy = BreakerPolicy(consecutive_failures=2, break_jitter=0, ramp=0, probe_timeout=20)
    return ProviderBreaker(policy, name="giga", on_change=events.append, exclude=[KeyError, lambda e: "ours" in str(e)])


async def test_call_async_hands_over_arguments_result_and_error(live):
    assert await live.call_async(fine, "answer", delay=1) == "answer"
    for _ in range(2):
        with pytest.raises(ValueError, match="down"):
            await live.call_async(boom)
    with pytest.raises(BreakerOpenError) as caught:
        await live.call_async(fine)
    assert caught.value.retry_after == 5
    await caught.value.sleep_until_open()
    assert await live.call_async(fine) == "fine"
    assert live.phase == "closed"


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("it was ours"), InvalidRequestError("400"), RateLimitError("429")],
)
async def test_an_error_that_says_nothing_about_the_provider_is_not_judged(live, error):
    async def work():
        raise error

    for _ in range(5):
        with pytest.raises(type(error)):
            await live.call_async(work)
    assert live.counts == (0, 0, 0, 0)
    assert live.is_system_error(error) is isinstance(error, RateLimitError)


async def test_our_errors_say_themselves_what_the_breaker_sees(live):
    async def work():
        raise AuthenticationError("401", retry_after=70)

    with pytest.raises(AuthenticationError):
        await live.call_async(work)
    assert (live.phase, live.wait_time()) == ("open", 70)


async def test_an_exclusion_that_raises_excludes_nothing(live, caplog):
    live.add_excluded_exception(lambda error: error.nothing_of_the_sort)
    assert live.is_system_error(ValueError("down")) is True


async def test_cancellation_is_neutral(live):
    tasks = [asyncio.create_task(live.call_async(fine, delay=100)) for _ in range(5)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert live.counts == (0, 0, 0, 0)
    assert live.is_system_error(asyncio.CancelledError()) is False


async def test_what_is_not_awaitable_is_the_callers_mistake(live):
    for _ in range(5):
        with pytest.raises(TypeError, match="returned int, not an awaitable; call_async takes an async function"):
            await live.call_async(lambda: 1)
    assert live.counts == (0, 0, 0, 0)
    with pytest.raises(TypeError, match="cannot be called in a blocking way"):
        live.call(len, "abc")


async def test_listeners_hear_of_calls(live):
    live.add_listener(recorder := Recorder())
    await live.call_async(fine, "answer", delay=0)
    with pytest.raises(ValueError, match="down"):
        await live.call_async(boom)
    with pytest.raises(KeyError):
        await live.call_async(partial({}.__getitem__, "x"))
    assert recorder.seen == [
        ("before", ("answer",), {"delay": 0}), "success", ("before", (), {}), ("failure", "ValueError"),
        ("before", (), {}),
    ]


# ---------------------------------------------------------------- streams


async def pieces(*items, delay=0.0, error=None):
    for item in items:
        await asyncio.sleep(delay)
        yield item
    if error is not None:
        raise error


async def read(stream):
    return [item async for item in stream]


async def to_half_open(breaker):
    trip(breaker)
    await asyncio.sleep(breaker.wait_time())


async def test_a_stream_that_ends_is_a_success(live):
    assert await read(live.stream(pieces("a", "b", delay=1))) == ["a", "b"]
    assert live.counts == (1, 0, 0, 0)


async def test_a_stream_that_breaks_is_a_failure_and_its_error_arrives(live):
    for _ in range(2):
        with pytest.raises(ServerError):
            await read(live.stream(pieces("a", error=ServerError("cut"))))
    assert live.phase == "open"
    with pytest.raises(BreakerOpenError):
        await read(live.stream(pieces("a")))


async def test_nothing_is_asked_of_the_breaker_before_the_first_item_is(live):
    trip(live)
    live.stream(pieces("a"))
    assert live.phase == "open"


@pytest.mark.parametrize(("items", "phase"), [(("a", "b"), "closed"), ((), "half-open")])
async def test_a_consumer_that_is_cancelled_is_neutral_before_the_first_item_and_a_success_after(live, items, phase):
    await to_half_open(live)

    async def source():
        for item in items:
            yield item
        await asyncio.sleep(1000)

    task = asyncio.create_task(read(live.stream(source())))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert live.phase == phase
    assert live.wait_time() == 0


async def test_a_consumer_that_stops_after_the_first_item_is_a_success_and_the_source_is_closed(live):
    source = pieces("a", "b")
    async with aclosing(live.stream(source)) as items:
        async for _ in items:
            break
    assert live.counts == (1, 0, 0, 0)
    assert await read(source) == []


async def test_an_error_thrown_in_by_the_consumer_is_not_the_providers(live):
    stream = live.stream(pieces("a", "b"))
    await anext(stream)
    with pytest.raises(ValueError, match="mine"):
        await stream.athrow(ValueError("mine"))
    assert live.counts == (1, 0, 0, 0)


async def test_the_first_item_ends_the_probing_although_the_stream_goes_on(live, events):
    await to_half_open(live)
    stream = live.stream(pieces(*"abc", delay=15))
    await anext(stream)
    assert live.phase == "closed"
    assert len(await read(stream)) == 2, "45 s in all, with 20 s for a probe"
    assert moves(events) == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


async def test_a_streams_speed_is_that_of_its_first_item(events):
    policy = BreakerPolicy(slow_call=3, slow_ratio=0.1, min_calls=1)
    breaker = ProviderBreaker(policy)
    await asyncio.sleep(100)
    await read(breaker.stream(pieces("a", "b", "c", delay=2)))
    assert breaker.counts == (1, 0, 0, 0)
    await read(breaker.stream(pieces("a", delay=4)))
    assert breaker.phase == "open"


# ---------------------------------------------------------------- the decorator


class Provider:
    async def ask(self, text):
        return text

    async def tell(self, *texts):
        for text in texts:
            yield text

    async def __call__(self, text):
        return text


async def test_it_decorates_whatever_is_async(live):
    provider = Provider()
    for function in (fine, partial(fine), provider, provider.ask, partial(provider), partial(partial(provider.ask))):
        assert await live(function)("text") == "text"
    for function in (pieces, partial(pieces, "a"), provider.tell, partial(provider.tell, "a")):
        assert (await read(live(function)("b")))[-1] == "b"
    assert live.counts == (10, 0, 0, 0)


async def test_a_decorated_function_keeps_its_name_and_may_be_a_method(live):
    class Client:
        @live
        async def ask(self, text):
            """Ask."""
            return text

        @live()
        async def tell(self, text):
            yield text

    assert (Client.ask.__name__, Client.ask.__doc__) == ("ask", "Ask.")
    assert await Client().ask("text") == "text"
    assert await read(Client().tell("text")) == ["text"]
    assert live.counts == (2, 0, 0, 0)


@pytest.mark.parametrize("function", [len, lambda: None, Provider, dict, 7, pytest.raises])
def test_what_is_not_async_is_refused_at_once(live, function):
    with pytest.raises(TypeError, match="neither an async function nor an async generator function"):
        live(function)


async def test_a_breaker_does_not_count_its_own_decorated_function_twice(live):
    once = live(fine)
    await live.call_async(once)
    assert live.counts.calls == 1
    other = ProviderBreaker()
    await live.call_async(other(once))
    assert (live.counts.calls, other.counts.calls) == (2, 1)
    for twice in (live(fine, ignore_on_call=False), live(ignore_on_call=False)(fine)):
        before = live.counts.calls
        await live.call_async(twice)
        assert live.counts.calls == before + 2


async def test_a_decorated_generator_is_closed_with_its_consumer(live):
    closed = []

    @live
    async def stream():
        try:
            yield "a"
        finally:
            closed.append(True)

    async with aclosing(stream()) as items:
        await anext(items)
    assert closed == [True]
