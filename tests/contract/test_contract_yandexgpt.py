"""The provider contract of YandexGPT, in memory and over real HTTP."""

from __future__ import annotations

import pytest

from contract.simulated import SimulatedContract


class TestYandexGPTInMemory(SimulatedContract):
    vendor = "yandex"


@pytest.mark.real_time
class TestYandexGPTOverHttp(SimulatedContract):
    vendor = "yandex"
