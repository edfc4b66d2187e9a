"""The provider contract of YandexGPT, in memory and over real HTTP."""

from __future__ import annotations

import pytest

from contract.simulated import SimulatedContract
from wire import FAST


class TestYandexGPTInMemory(SimulatedContract):
    vendor = "yandex"


@pytest.mark.real_time
class TestYandexGPTOverHttpx(SimulatedContract):
    vendor = "yandex"
    engine = "httpx"


@FAST
@pytest.mark.real_time
class TestYandexGPTOverTheFastEngine(SimulatedContract):
    vendor = "yandex"
    engine = "fast"
