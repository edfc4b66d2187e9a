"""The breaker against a model of it that was written from its description: exact timers, plain lists, no laziness."""

from __future__ import annotations

from fractions import Fraction
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.clock import Random
from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import CircuitOpenError, Verdict
from orchestrator.resilience.breaker import ProviderBreaker
from orchestrator.resilience.window import Window

WINDOW = 40  # seconds; all times are multiples of a quarter, so that floats are exact
JITTER = 0.5
DRAW = 0.25  # what every draw of the jitter gives


class SameDraw(Random):
    def uniform(self, a, b):
        assert (a, b) == (0.0, JITTER)
        return DRAW


class ModelPermit:
    def __init__(self, generation, started, probe):
        self.generation, self.started, self.probe, self.back = generation, started, probe, False


class Model:
    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.now = 0.0
        self.home = "closed" if policy.enabled else "disabled"
        self.phase = self.home
        self.generation = 0
        self.exponent = 0
        self.closed_at = 0.0
        self.ends = inf
        self.opened_at = -inf
        self.refused = False
        self.cut_until = -inf  # a last-resort probe has cut a break short that would have ended then
        self.told: list[tuple[str, str, str]] = []
        self.fresh()

    def fresh(self):
        self.ended: list[tuple[float, str, bool]] = []  # when, how, slow
        self.row = 0
        self.probes: list[ModelPermit] = []
        self.passed = 0

    def move(self, phase, why, ends=inf):
        if phase != self.phase:
            self.told.append((self.phase, phase, why))
        if not (self.phase == "ramp" and phase == "closed" and why == "ramp"):
            self.generation += 1
            row = self.row
            self.fresh()
            self.row = row if phase == "open" else 0
        self.phase, self.ends = phase, ends
        if phase not in ("open", "half-open"):
            self.refused = False

    # time passes, and timers fire on time

    def advance(self, seconds):
        target = self.now + seconds
        while (when := self.next_timer()) <= target:
            self.now = when
            if self.phase == "ramp":
                self.move("closed", "ramp")
            else:
                self.trip("probe")
        self.now = target

    def next_timer(self):
        if self.phase == "ramp":
            return self.ends
        return min((probe.started + self.policy.probe_timeout for probe in self.probes), default=inf)

    # transitions

    def trip(self, why, retry_after=None):
        if self.phase in ("closed", "ramp") and self.now - self.closed_at >= WINDOW:
            healthy = int((self.now - self.closed_at) / WINDOW)
            self.exponent = max(0, self.exponent - healthy)
            self.cut_until = -inf
        self.refused = why == "credentials"
        self.opened_at = self.now
        lengths = [0.0 if retry_after is None else min(retry_after, 300), self.cut_until - self.now]
        if self.refused or self.now >= self.cut_until:
            lengths.append(self.next_break())
        self.move("open", why, self.now + max(lengths))

    def next_break(self):
        base = self.policy.credentials_break if self.refused else self.policy.break_base
        length = base * 2**self.exponent
        if length >= self.policy.break_max:
            length = self.policy.break_max
        else:
            self.exponent += 1
        return length * (1 + DRAW)

    def close(self):
        self.closed_at = self.now
        ramp = self.policy.ramp
        self.move("ramp" if ramp else "closed", "probe", self.now + ramp if ramp else inf)

    # calls

    def wait(self, last_resort=False):
        if self.phase == "isolated":
            return inf
        if self.phase == "open":
            left = max(0.0, self.ends - self.now)
            spacing = max(0.0, self.opened_at + self.policy.break_base / 10 - self.now)
            return min(left, spacing) if last_resort and not self.refused else left
        if self.phase == "half-open" and self.probes:
            busy = self.next_timer() - self.now
            if len(self.probes) + self.passed == self.policy.probes:
                return busy
            return min(busy, max(0.0, self.cut_until - self.now))
        return 0.0

    def acquire(self, last_resort=False):
        assert self.wait(last_resort) == 0
        if self.phase == "open" and self.now < self.ends:
            self.cut_until = self.ends
            self.move("half-open", "last")
        elif self.phase == "open":
            self.move("half-open", "break")
        permit = ModelPermit(self.generation, self.now, self.phase == "half-open")
        if permit.probe:
            self.probes.append(permit)
        return permit

    def slow(self, duration):
        return self.policy.slow_call is not None and duration > self.policy.slow_call

    def opened(self, permit):
        if permit.back or not permit.probe or permit.generation != self.generation:
            return
        self.judge_probe(permit, "success", self.slow(self.now - permit.started))
        permit.probe = False
        if self.phase != "open":
            permit.generation = self.generation

    def release(self, permit, verdict, retry_after=None, duration=None):
        if permit.back:
            return
        permit.back = True
        slow = self.slow(self.now - permit.started if duration is None else duration)
        if permit.generation != self.generation:
            self.ended.append((self.now, "late", False))
        elif verdict == "neutral":
            if permit.probe:
                self.probes.remove(permit)
                if not self.probes and not self.passed and self.now < self.cut_until:
                    self.trip("probe")
        elif permit.probe:
            self.ended.append((self.now, verdict, slow))
            self.judge_probe(permit, verdict, slow, retry_after)
        elif verdict != "limited":
            self.ended.append((self.now, verdict, slow))
            self.judge(verdict, slow, retry_after)

    def judge_probe(self, permit, verdict, slow, retry_after=None):
        self.probes.remove(permit)
        if verdict != "success":
            self.trip("credentials" if verdict == "credentials" else "probe", retry_after)
        elif slow:
            self.trip("probe")
        else:
            self.passed += 1
            if self.passed == self.policy.probes:
                self.close()

    def judge(self, verdict, slow, retry_after):
        bad = verdict != "success"
        answers = any(how == "success" and self.now // 4 - when // 4 < 2 for when, how, _ in self.ended)
        if not (verdict == "overloaded" and answers):
            self.row = self.row + 1 if bad else 0
        calls, failures, slows, _ = self.counts()
        enough = calls >= self.policy.min_calls
        if self.phase == "disabled":
            return
        if verdict == "credentials":
            self.trip("credentials", retry_after)
        elif bad and self.phase == "half-open":
            self.trip("probe", retry_after)
        elif bad and self.row >= self.policy.consecutive_failures:
            self.trip(str(self.row), retry_after)
        elif bad and enough and Fraction(failures, calls) >= Fraction(self.policy.failure_ratio):
            self.trip("failure", retry_after)
        elif slow and enough and Fraction(slows, calls) >= Fraction(self.policy.slow_ratio):
            self.trip("slow", retry_after)

    def counts(self):
        bucket = WINDOW / 10
        kept = [(how, slow) for when, how, slow in self.ended if self.now // bucket - when // bucket < 10]
        judged = [(how, slow) for how, slow in kept if how != "late"]
        return (
            len(judged), sum(how != "success" for how, _ in judged), sum(slow for _, slow in judged),
            len(kept) - len(judged),
        )

    # by hand

    def by_hand(self, phase):
        if phase == "isolated" and self.phase != "isolated":
            self.move("isolated", "isolated")
        elif phase == "closed":
            self.exponent = 0
            self.cut_until = -inf
            self.move(self.home, "reset")
        elif phase == "open" and self.phase in ("closed", "ramp", "half-open"):
            self.cut_until = -inf
            self.trip("opened")
        elif phase == "half-open" and self.phase in ("closed", "ramp", "open"):
            self.cut_until = -inf
            self.move("half-open", "half-opened")


policies = st.builds(
    BreakerPolicy,
    enabled=st.sampled_from([True] * 7 + [False]),
    window=st.just(WINDOW),
    min_calls=st.integers(1, 6),
    failure_ratio=st.sampled_from([0.25, 0.5, 1.0]),
    consecutive_failures=st.integers(1, 5),
    slow_call=st.sampled_from([None, 3.0]),
    slow_ratio=st.sampled_from([0.5, 1.0]),
    break_base=st.just(5),
    break_max=st.sampled_from([5, 30, 80]),
    credentials_break=st.sampled_from([5, 20]),
    break_jitter=st.just(JITTER),
    probes=st.integers(1, 3),
    probe_timeout=st.sampled_from([2, 12]),
    ramp=st.sampled_from([0, 8]),
)


class BreakerMachine(RuleBasedStateMachine):
    """Permits are drawn by index from all that were ever given out: late, returned and stale ones included."""

    @initialize(policy=policies)
    def start(self, policy):
        self.events = []
        self.model = Model(policy)
        self.breaker = ProviderBreaker(
            policy, name="giga", random=SameDraw(), clock=lambda: self.model.now, on_change=self.events.append
        )
        self.permits = []
        self.generation = 0

    @rule(times=st.integers(1, 4), last_resort=st.booleans())
    def acquire(self, times, last_resort):
        for _ in range(times):
            if self.model.wait(last_resort) == 0:
                mine = self.breaker.acquire(last_resort=last_resort)
                self.permits.append((mine, self.model.acquire(last_resort)))
                continue
            with pytest.raises(CircuitOpenError) as caught:
                self.breaker.acquire(last_resort=last_resort)
            wait = self.model.wait(last_resort)
            assert caught.value.retry_after == (None if wait == inf else wait)

    @precondition(lambda self: self.model.phase not in ("isolated", "disabled"))
    @rule(verdicts=st.lists(st.sampled_from(Verdict), min_size=1, max_size=4), took=st.sampled_from([0, 1, 4, 40]))
    def ask_as_the_last_resort(self, verdicts, took):
        """Gets there far more often than chance does; each call takes so many quarters of a second."""
        if self.model.phase != "open" or self.model.refused:
            self.by_hand("half-open")
            self.by_hand("open")
        for verdict in verdicts:
            self.model.advance(self.model.wait(last_resort=True))
            mine, models = self.breaker.acquire(last_resort=True), self.model.acquire(last_resort=True)
            self.model.advance(took / 4)
            self.breaker.release(mine, verdict)
            self.model.release(models, verdict.value)
            if self.model.phase == "open" and self.model.refused:
                break

    @rule(quarters=st.sampled_from([0, 4, 12, 16, 20, 28, 32]), overloads=st.integers(1, 6), late=st.booleans())
    def answer_one_and_turn_others_away(self, quarters, overloads, late):
        """At both ends of the time for which an answer proves that it is only full; a bucket is 16 quarters."""
        self.end_at_once(Verdict.SUCCESS)
        self.model.advance(quarters / 4)
        for _ in range(overloads):
            self.end_at_once(Verdict.OVERLOADED)
        if late:
            self.model.advance(8)

    def end_at_once(self, verdict):
        if self.model.wait() == 0:
            mine, models = self.breaker.acquire(), self.model.acquire()
            self.breaker.release(mine, verdict)
            self.model.release(models, verdict.value)

    def release_one(self, data, verdict, **options):
        mine, models = self.permits[data.draw(st.integers(0, len(self.permits) - 1))]
        self.breaker.release(mine, verdict, **options)
        self.model.release(models, verdict.value, **options)

    @precondition(lambda self: self.permits)
    @rule(
        data=st.data(), verdict=st.sampled_from(Verdict), retry_after=st.sampled_from([None, 0.0, 20.0, 1000.0]),
        duration=st.sampled_from([None, 1.0, 4.0]),
    )
    def release(self, data, verdict, retry_after, duration):
        self.release_one(data, verdict, retry_after=retry_after, duration=duration)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), good=st.booleans())
    def release_plainly(self, data, good):
        self.release_one(data, Verdict.SUCCESS if good else Verdict.FAILURE)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def cancel(self, data):
        self.release_one(data, Verdict.NEUTRAL)

    @rule(verdicts=st.lists(st.sampled_from([Verdict.SUCCESS, Verdict.FAILURE, Verdict.FAILURE]), max_size=6))
    def call(self, verdicts):
        for verdict in verdicts:
            if self.model.wait() == 0:
                mine, models = self.breaker.acquire(), self.model.acquire()
                self.breaker.release(mine, verdict)
                self.model.release(models, verdict.value)

    @precondition(lambda self: self.model.phase != "isolated")
    @rule(rounds=st.integers(1, 3), last=st.sampled_from([Verdict.SUCCESS, Verdict.NEUTRAL]))
    def break_and_probe(self, rounds, last):
        """Gets to the rarer states: several breaks in a row, then probes."""
        for verdict in [Verdict.CREDENTIALS] * rounds + [last] * self.model.policy.probes:
            self.model.advance(self.model.wait())
            if self.model.wait() == 0:
                mine, models = self.breaker.acquire(), self.model.acquire()
                self.breaker.release(mine, verdict)
                self.model.release(models, verdict.value)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def open_stream(self, data):
        mine, models = self.permits[data.draw(st.integers(0, len(self.permits) - 1))]
        self.breaker.opened(mine)
        self.model.opened(models)

    @rule(quarters=st.sampled_from([1, 2, 4, 8, 16, 20, 48, 160, 1000]))
    def advance(self, quarters):
        self.model.advance(quarters / 4)

    @precondition(lambda self: 0 < self.model.wait() < inf)
    @rule()
    def sleep_for_the_wait_time(self):
        wait = self.breaker.wait_time()
        assert wait == self.model.wait()
        self.model.advance(wait)

    @precondition(lambda self: self.model.phase == "isolated")
    @rule()
    def end_the_isolation(self):
        self.by_hand("closed")

    @rule(phase=st.sampled_from(["closed", "open", "half-open", "isolated"]))
    def move_by_hand(self, phase):
        self.by_hand(phase)

    def by_hand(self, phase):
        verbs = {"isolated": "isolate", "closed": "reset", "open": "open", "half-open": "half_open"}
        getattr(self.breaker, verbs[phase])()
        self.model.by_hand(phase)

    # A rule and no invariant, so that in most steps nobody but the next verb makes up for the time that has passed.
    @rule()
    def compare(self):
        breaker, model = self.breaker, self.model
        assert breaker.wait_time() == model.wait()
        assert breaker.last_resort_wait() == model.wait(last_resort=True)
        assert breaker.credentials_refused == model.refused
        assert breaker.phase == model.phase
        assert breaker.generation == model.generation
        assert breaker.counts == model.counts()
        assert breaker.fail_counter == model.row
        if model.phase == "ramp":
            assert breaker.share == max(0.1, 1 - (model.ends - model.now) / model.policy.ramp)
        else:
            assert breaker.share == 1
        told = [(event.old, event.new, event.reason.split()[0].rstrip(",")) for event in self.events]
        assert told == model.told
        assert breaker.reason == (self.events[-1].reason if self.events else None)

    @invariant()
    def the_generation_only_grows(self):
        assert self.breaker.generation >= self.generation
        self.generation = self.breaker.generation

    @invariant()
    def no_more_probes_are_under_way_than_allowed(self):
        under_way = [
            mine for mine, _ in self.permits
            if mine.probe and not mine.released and mine.generation == self.breaker.generation
        ]
        assert len(under_way) <= self.model.policy.probes

    def teardown(self):
        if hasattr(self, "breaker"):
            self.compare()


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_breaker_behaves_as_its_model = BreakerMachine.TestCase


@settings(max_examples=200, deadline=None)
@given(
    ends=st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 3, 4, 5, 17, 36, 37, 40, 41, 1000]), st.booleans(), st.booleans(), st.booleans(),
        ),
        min_size=5, max_size=60,
    )
)
def test_the_window_counts_what_ended_in_the_last_ten_buckets(ends):
    window, at, seen = Window(WINDOW), 0, []
    for step, failed, slow, late in ends:
        at += step
        seen.append((at // (WINDOW // 10), failed, slow, late))
        if late:
            window.add_late(at)
        else:
            window.add(at, failed=failed, slow=slow)
        kept = [entry[1:] for entry in seen if at // (WINDOW // 10) - entry[0] < 10]
        judged = [(failed, slow) for failed, slow, late in kept if not late]
        assert (window.calls, window.late) == (len(judged), len(kept) - len(judged))
        assert (window.failures, window.slow) == (sum(f for f, _ in judged), sum(s for _, s in judged))
