"""Limits against a model that remembers every call and adds it all up anew at each look."""

from __future__ import annotations

from math import inf, nextafter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator import ProviderConfig
from orchestrator.core.config import LimitPolicy
from orchestrator.core.errors import InvalidRequestError, OverloadedError, RateLimitError, ServerError, Verdict
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.resilience.limits import Limits
from orchestrator.resilience.quota import LONGEST

REFUSED = (RateLimitError, InvalidRequestError)
SMALL = st.sampled_from([None, None, None, 1, 2, 5])
TOKENS = st.sampled_from([None, None, 10, 100])
AMOUNTS = st.sampled_from([0, 1, 4, 9, 30, 60, 200])


class Call:
    def __init__(self, at, tokens, counted, charged):
        self.at, self.estimate, self.tokens, self.counted, self.charged = at, tokens, tokens, counted, charged
        self.open = True


class Model:
    """Times are multiples of a quarter of a second, so that floats are exact."""

    def __init__(self, policy):
        self.policy = policy
        self.now = 0.0
        self.calls: list[Call] = []
        self.samples: list[tuple[bool, float, float, int]] = []  # good, begun, ended, in use; or a bound
        self.reports: dict[str, tuple[float, Quota, int, int]] = {}  # when, what, calls made and under way before it

    @property
    def in_use(self):
        return sum(call.open for call in self.calls)

    def under_way(self, kind):
        return max(self.in_use - 1, 0) if kind == "requests" else sum(c.estimate for c in self.calls if c.open)

    def concurrency(self):
        return int(self.adapted()) if self.policy.adaptive else self.most

    def adapted(self):
        """The course of the adaptive limit, walked anew."""
        limit, refused, decreased, most = float(self.policy.adaptive_initial), inf, -inf, 1000
        for sample in self.samples:
            if isinstance(sample, int):
                most = sample
            elif sample[0]:
                _, _, _, in_use = sample
                near = refused - 1 <= limit < refused
                limit += (0.1 if near else 1) / limit if in_use >= limit / 2 else 0
            elif sample[1] > decreased:
                refused, decreased = limit, sample[2]
                limit = min(limit * self.policy.adaptive_backoff, limit - 1)
            limit = min(max(limit, self.policy.adaptive_min), most)
        return limit

    def last_minute(self, at):
        return [call for call in self.calls if at - 60 < call.at <= at]

    def has_room(self, at, tokens):
        """In the last minute, as far as it is configured."""
        recent = self.last_minute(at)
        if self.rpm is not None and sum(call.counted for call in recent) >= self.rpm:
            return False
        spent = sum(call.tokens for call in recent if call.charged)
        return self.tpm is None or spent == 0 or spent + max(tokens, 1) <= self.tpm

    def wait(self, tokens):
        concurrency = self.concurrency()
        if concurrency is not None and self.in_use >= concurrency:
            return inf
        moments = [self.now, *(call.at + 60 for call in self.last_minute(self.now))]
        return min(at for at in moments if self.has_room(at, tokens)) - self.now

    def taken_since(self, kind):
        calls = self.calls[self.reports[kind][2]:]
        return len(calls) if kind == "requests" else sum(call.tokens for call in calls)

    def bounds(self, kind, need):
        """The shortest and the longest wait that what was told allows."""
        if kind not in self.reports:
            return 0.0, 0.0
        told_at, quota, _, under_way = self.reports[kind]
        reset = 1.0 if quota.reset is None else min(quota.reset, LONGEST)
        left = max(told_at + reset - self.now, 0.0)
        need = min(need, quota.limit) if quota.limit else need
        back = 0.0
        if quota.refills and quota.reset:
            back = (quota.limit - quota.remaining) / quota.reset * (self.now - told_at)
        # At least what was taken since is gone; at most that, and all that was under way or estimated then.
        calls = self.calls[self.reports[kind][2]:]
        estimated = len(calls) if kind == "requests" else sum(max(c.estimate, c.tokens) for c in calls)
        over = 0 if kind == "requests" else sum(max(c.tokens - c.estimate, 0) for c in self.calls)
        surely = quota.remaining + back - estimated - under_way - over >= need
        hardly = quota.remaining + back - self.taken_since(kind) < need
        return left if hardly and not quota.refills else 0.0, 0.0 if surely else left


class LimitsMachine(RuleBasedStateMachine):
    @initialize(
        rpm=SMALL, tpm=TOKENS, concurrency=SMALL, adaptive=st.sampled_from([False, False, True]),
        initial=st.integers(1, 6), least=st.integers(1, 2),
    )
    def start(self, rpm, tpm, concurrency, adaptive, initial, least):
        self.policy = LimitPolicy(adaptive=adaptive, adaptive_initial=initial, adaptive_min=least, adaptive_backoff=0.5,
                                  adaptive_latency=10)
        self.model = Model(self.policy)
        self.limits = Limits()
        self.leases = []
        self.limits = Limits.of(self.configured(rpm, tpm, concurrency), policy=self.policy) or self.limits

    def configured(self, rpm, tpm, concurrency):
        model = self.model
        model.rpm, model.tpm, model.most = rpm, tpm, concurrency
        model.samples.append(1000 if concurrency is None else concurrency)
        return ProviderConfig(name="a", rpm_limit=rpm, tpm_limit=tpm, max_concurrency=concurrency)

    @rule(rpm=SMALL, tpm=TOKENS, concurrency=SMALL)
    def reconfigure(self, rpm, tpm, concurrency):
        if rpm or tpm or concurrency or self.policy.adaptive:
            config = self.configured(rpm, tpm, concurrency)
            assert Limits.of(config, self.model.in_use, self.limits, self.policy) is self.limits
            self.model.reports.clear()

    @rule(quarters=st.sampled_from([1, 4, 30, 100, 239, 240, 241, 600]))
    def time_passes(self, quarters):
        self.model.now += quarters / 4

    @rule(tokens=AMOUNTS)
    def wait_until_told(self, tokens):
        """It goes exactly then, and not a moment earlier."""
        wait = self.model.wait(tokens)
        if 0 < wait < inf and not self.model.reports:
            assert self.limits.wait_time(nextafter(self.model.now + wait, 0), tokens) > 0
            self.model.now += wait
            assert self.limits.wait_time(self.model.now, tokens) == 0

    @rule(tokens=AMOUNTS, times=st.integers(1, 3))
    def acquire(self, tokens, times):
        model = self.model
        for _ in range(times):
            if self.limits.wait_time(model.now, tokens) > 0:
                return
            lease = self.limits.acquire(model.now, tokens)
            model.calls.append(Call(model.now, tokens, model.rpm is not None, model.tpm is not None))
            self.leases.append((lease, model.calls[-1]))

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(), used=st.sampled_from([None, 0, 3, 30, 150]),
        end=st.sampled_from([None, None, None, "cancelled", RateLimitError, OverloadedError, ServerError,
                             InvalidRequestError]),
        latency=st.sampled_from([None, 1.0, 11.0]),
    )
    def release(self, data, used, end, latency):
        """Any lease that was ever out: one that is back changes nothing."""
        self.give_back(*data.draw(st.sampled_from(self.leases)), used, end, latency)

    def give_back(self, lease, call, used=None, end=None, latency=None):
        model = self.model
        error = end() if isinstance(end, type) else None
        verdict = error.verdict if error else Verdict.NEUTRAL if end else Verdict.SUCCESS
        if call.open:
            good = verdict is Verdict.SUCCESS and not (latency and latency > 10)
            if verdict in (Verdict.SUCCESS, Verdict.LIMITED) or end is OverloadedError:
                model.samples.append((good, call.at, model.now, model.in_use))
            call.open = False
            call.tokens = used if used is not None else 0 if end in REFUSED else call.estimate
        self.limits.release(lease, model.now, verdict, tokens=used, latency=latency, error=error)

    @rule(
        kind=st.sampled_from(["requests", "tokens"]), remaining=st.integers(0, 20), more=st.sampled_from([0, 5, 100]),
        reset=st.sampled_from([None, 0, 8, 64, 100_000]), refills=st.booleans(),
    )
    def learn(self, kind, remaining, more, reset, refills):
        quota = Quota(remaining, remaining + more, reset, refills)
        model = self.model
        model.reports[kind] = model.now, quota, len(model.calls), model.under_way(kind)
        self.limits.learn(RateLimits(**{kind: quota}), model.now)

    @precondition(lambda self: self.policy.adaptive)
    @rule(ends=st.lists(st.sampled_from([None, None, RateLimitError]), min_size=3, max_size=12))
    def a_round_trip(self, ends):
        """As many calls as there is room for, which end together."""
        self.acquire(0, len(ends))
        self.time_passes(4)
        for (lease, call), end in zip([out for out in self.leases if out[1].open], ends, strict=False):
            self.give_back(lease, call, end=end)

    @rule(
        data=st.data(), before=st.lists(st.integers(0, 9), max_size=3), after=st.lists(st.integers(0, 9), max_size=3),
        remaining=st.integers(5, 25), used=st.lists(st.sampled_from([None, 0, 3, 15]), max_size=4),
    )
    def a_report_among_calls(self, data, before, after, remaining, used):
        """Gets there far more often than chance does: leases from before and after a report come back."""
        for tokens in before:
            self.acquire(tokens, 1)
        self.learn("tokens", remaining, 5, 64, refills=False)
        self.time_passes(4)
        for tokens in after:
            self.acquire(tokens, 1)
        for tokens in used[: len(self.leases)]:
            self.release(data, tokens, None, None)
            self.waits_for_what_is_short_and_for_nothing_else()

    @invariant()
    def waits_for_what_is_short_and_for_nothing_else(self):
        model = self.model
        for tokens in (0, 5, 50, 500):
            wait = self.limits.wait_time(model.now, tokens)
            bounds = [model.bounds("requests", 1), model.bounds("tokens", max(tokens, 1))]
            configured = model.wait(tokens)
            assert max(configured, *(low for low, _ in bounds)) <= wait
            assert wait <= max(configured, *(high for _, high in bounds))

    @invariant()
    def counts_what_is_under_way(self):
        assert self.limits.in_use == self.model.in_use
        assert self.limits.concurrency == self.model.concurrency()
        if self.policy.adaptive:
            assert self.limits._adaptive.limit == pytest.approx(self.model.adapted())

    def teardown(self):
        for lease, call in getattr(self, "leases", ()):
            self.limits.release(lease, self.model.now)
            call.open = False
        if hasattr(self, "leases"):
            assert self.limits.in_use == 0
            assert not self.limits.wakes or self.limits.full
            self.model.now += LONGEST
            assert self.limits.wait_time(self.model.now, 10**6) == 0


TestLimits = LimitsMachine.TestCase
TestLimits.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
