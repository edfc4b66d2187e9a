"""Prices of a provider: told to strategies, and what an answer costs where the provider does not say."""

from __future__ import annotations

import pytest

from orchestrator import ProviderConfig, Router
from orchestrator.core.types import Completion, Usage
from orchestrator.providers import MockProvider
from orchestrator.simulation.model import ProviderModel

PRICES = {"input_price": 2.0, "cached_input_price": 0.5, "output_price": 8.0}
USAGE = Usage(1000, 100, cached_tokens=600)


async def ask(answer, **prices):
    async with Router(providers=[Told(answer, **prices)]) as router:
        answer = await router.complete("Hi")
        return answer.cost, router.snapshot()["a"].cost


class Told(MockProvider):
    def __init__(self, answer, **prices):
        super().__init__(ProviderConfig(name="a", **prices))
        self.answer = answer

    async def complete(self, request):
        return self.answer


async def test_an_answer_is_priced_by_its_usage_with_cached_tokens_at_their_own_price():
    cost = (400 * 2.0 + 600 * 0.5 + 100 * 8.0) / 1e6
    assert await ask(Completion("Hi", usage=USAGE), **PRICES) == pytest.approx((cost, cost))


async def test_cached_tokens_without_a_price_cost_as_input():
    cost, _ = await ask(Completion("Hi", usage=USAGE), input_price=2.0, output_price=8.0)
    assert cost == pytest.approx((1000 * 2.0 + 100 * 8.0) / 1e6)


async def test_what_the_provider_bills_is_what_it_costs():
    assert await ask(Completion("Hi", usage=USAGE, cost=0.5), **PRICES) == (0.5, 0.5)
    assert await ask(Completion("Hi", usage=USAGE, cost=0.0), **PRICES) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("usage", "prices"), [(None, PRICES), (USAGE, {}), (USAGE, {"input_price": 1.0}), (USAGE, {"output_price": 1.0})]
)
async def test_without_usage_or_both_prices_the_cost_is_not_known(usage, prices):
    assert await ask(Completion("Hi", usage=usage), **prices) == (None, 0.0)


async def test_a_changed_price_counts_from_the_next_answer_on():
    told = Told(Completion("Hi", usage=Usage(1_000_000, 0)), input_price=1.0, output_price=1.0)
    async with Router(providers=[told]) as router:
        assert (await router.complete("Hi")).cost == 1.0
        told.answer, told.config.input_price = Completion("Hi", usage=Usage(1_000_000, 0)), 3.0
        assert (await router.complete("Hi")).cost == 3.0


@pytest.mark.parametrize("field", list(PRICES))
@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_a_price_is_a_number_from_zero_up(field, wrong):
    with pytest.raises(ValueError, match=field):
        ProviderConfig(name="a", **{field: wrong})


def test_a_modelled_provider_tells_its_prices_where_it_has_some():
    model = {"name": "a", "first_token": {"median_s": 1}, "token_rate": {"median_tps": 50}}
    priced = ProviderModel(**model, prices={"input": 1, "cached_input": 0.1, "output": 4}).provider_config("a")
    assert (priced.input_price, priced.cached_input_price, priced.output_price) == (1, 0.1, 4)
    assert ProviderModel(**model).provider_config("a").input_price is None
    assert ProviderModel(**model, prices={"input": 1}, config={"input_price": 9}).provider_config("a").input_price == 9
