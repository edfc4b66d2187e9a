"""Names that are loaded when they are first asked for."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest

from orchestrator import ProviderConfig
from orchestrator.core.lazy import lazy


@pytest.fixture
def package(monkeypatch):
    made = ModuleType("json")  # whose submodules are there to be found
    monkeypatch.setitem(sys.modules, "json", made)
    made.__getattr__, made.__dir__ = lazy("json", {"scanner": "json.scanner", "JSONDecoder": "json.decoder"})
    return made


def test_a_name_is_taken_from_its_home_and_then_is_an_attribute(package):
    from json.decoder import JSONDecoder

    assert "JSONDecoder" not in vars(package)
    assert package.JSONDecoder is JSONDecoder
    assert vars(package)["JSONDecoder"] is JSONDecoder


def test_a_name_whose_home_is_the_submodule_of_that_name_is_the_submodule(package):
    assert package.scanner is sys.modules["json.scanner"]


def test_what_is_not_loaded_yet_is_listed_with_the_others(package):
    package.there = 1
    assert {"scanner", "JSONDecoder", "there", "__name__"} <= set(dir(package))
    assert dir(package) == sorted(dir(package))


def test_another_name_is_missing_as_it_is_in_any_module(package):
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from orchestrator import Nothing  # noqa: F401


def test_a_settings_class_is_pickled_by_its_home():
    assert pickle.loads(pickle.dumps(ProviderConfig)) is ProviderConfig
    assert ProviderConfig.__module__ == "orchestrator.core.config"
