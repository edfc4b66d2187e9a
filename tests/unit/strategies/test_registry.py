"""From a name, a class or an object to a strategy; and errors that name what is allowed."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

import orchestrator.strategies
from orchestrator.strategies import (
    Adaptive,
    Affinity,
    BestAvailable,
    FirstAvailable,
    LeastBusy,
    LeastLatency,
    LowestCost,
    PeakEwma,
    Prequal,
    RandomChoice,
    RoundRobin,
    RoutingStrategy,
    Weighted,
    resolve,
)
from orchestrator.strategies.registry import BUILT_IN

CLASSES = [
    RoundRobin, Weighted, RandomChoice, FirstAvailable, LeastLatency, LeastBusy, PeakEwma, Prequal, LowestCost,
    BestAvailable, Affinity, Adaptive,
]
NAMES = [
    "round-robin", "weighted", "random", "first-available", "least-latency", "least-busy", "peak-ewma", "prequal",
    "lowest-cost", "best-available", "affinity", "adaptive",
]


PLUGIN = """
from orchestrator.strategies import RoutingStrategy

class Reversed(RoutingStrategy):
    def order(self, candidates, request):
        return reversed(candidates)

ready_made = Reversed()
no_strategy = 42
"""
ENTRY_POINTS = """
[orchestrator.strategies]
reversed = reversing_plugin:Reversed
ready-made = reversing_plugin:ready_made
broken = reversing_plugin:no_strategy
weighted = no_such_module:Weighted
"""


class Mine(RoutingStrategy):
    def order(self, candidates, request):
        return candidates


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that registers strategies, installed as pip would leave it."""
    (tmp_path / "reversing_plugin.py").write_text(PLUGIN)
    info = tmp_path / "reversing_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reversing-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("reversing_plugin", None)


@pytest.mark.parametrize(
    ("name", "made"),
    list(zip(NAMES, CLASSES, strict=True)),
)
def test_a_built_in_name_makes_a_new_strategy(name, made):
    assert type(resolve(name)) is made
    assert resolve(name) is not resolve(name)
    assert made.name == name


def test_an_object_is_taken_as_it_is_and_a_class_is_instantiated():
    mine = Mine()
    assert resolve(mine) is mine
    assert isinstance(resolve(Mine), Mine)


@pytest.mark.parametrize(
    ("name", "near"),
    [("round_robin", "round-robin"), ("FIRST_AVAILABLE", "first-available"), ("wieghted", "weighted"), ("best", None)],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name, near):
    with pytest.raises(ValueError, match=f"unknown strategy '{name}'") as caught:
        resolve(name)
    assert all(known in str(caught.value) for known in NAMES)
    assert ("Did you mean" in str(caught.value)) is (near is not None)
    assert near is None or f"Did you mean {near!r}?" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "shown"), [(42, "int"), (None, "NoneType"), (dict, "the class dict"), (lambda c, r: c, "function")]
)
def test_what_is_no_strategy_is_refused_with_what_is_allowed(value, shown):
    with pytest.raises(TypeError, match=f"strategy is {shown}; expected a name .*round-robin.*RoutingStrategy"):
        resolve(value)


@pytest.mark.usefixtures("installed")
class TestEntryPoints:
    @pytest.mark.parametrize("name", ["reversed", "ready-made"])
    def test_may_be_a_class_or_an_object(self, name):
        strategy = resolve(name)
        assert list(strategy.order([1, 2, 3], None)) == [3, 2, 1]

    def test_never_replace_a_built_in_strategy(self):
        assert type(resolve("weighted")) is Weighted

    def test_are_named_and_suggested_to_who_mistypes(self):
        with pytest.raises(ValueError, match=r"Did you mean 'ready-made'\? Known: .*broken, .*ready-made, .*reversed"):
            resolve("ready_made")

    def test_that_are_no_strategy_are_refused_by_name(self):
        with pytest.raises(TypeError, match=r"entry point 'broken' of 'orchestrator\.strategies' is int"):
            resolve("broken")


def test_a_built_in_name_reads_no_package_metadata(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", None)
    for name in NAMES:
        resolve(name)


def test_the_exports_are_the_built_in_classes():
    classes = {strategy.__name__ for strategy in BUILT_IN.values()}
    composed = {"Filtered", "Shadow", "TieBreak", "Tiers"}
    assert classes | composed | {"RoutingStrategy", "resolve"} == set(orchestrator.strategies.__all__)
    assert list(BUILT_IN) == NAMES
