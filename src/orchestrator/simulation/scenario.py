"""A whole scenario: providers, traffic, the router's policies and how long; read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from orchestrator.core.config import (
    BreakerPolicy,
    HedgePolicy,
    LimitPolicy,
    RecoveryPolicy,
    RetryPolicy,
    Timeouts,
)
from orchestrator.simulation.assertion import Assertion
from orchestrator.simulation.model import ProviderModel, Table, TrafficModel

__all__ = ["RouterModel", "Scenario", "ScenarioError"]


class ScenarioError(ValueError):
    """A scenario that cannot be read; says file, table and field."""


class RouterModel(Table):
    """The arguments of ``Router``, each policy as a table of its own; what is left out has the router's default."""

    timeouts: Timeouts | None = None
    retry: RetryPolicy | None = None
    breaker: BreakerPolicy | None = None
    limits: LimitPolicy | None = None
    hedge: HedgePolicy | None = None
    recovery: RecoveryPolicy | None = None
    stream_plain_calls: bool | None = None
    failover_on_content_filter: bool | None = None

    def options(self) -> dict[str, Any]:
        """What to call ``Router`` with."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class Scenario(Table):
    """``duration_s`` seconds of traffic, of which the first ``warm_up_s`` are not counted.

    ``slo_s``: an answer counts as in time within so many seconds of the call. ``trace``: a JSONL file of recorded
    timings, see :mod:`orchestrator.simulation.trace`; its path is relative to the scenario's file. ``assertions``:
    what ``orchestrator simulate`` requires of every run, see :mod:`orchestrator.simulation.assertion`.
    """

    name: str = Field(min_length=1)
    description: str = ""
    duration_s: float = Field(gt=0, allow_inf_nan=False)
    warm_up_s: float = Field(default=0.0, ge=0)
    seed: int = 1
    slo_s: float | None = Field(default=None, gt=0)
    providers: tuple[ProviderModel, ...] = Field(min_length=1)
    traffic: TrafficModel
    router: RouterModel = RouterModel()
    trace: Path | None = None
    assertions: tuple[str, ...] = ()

    @field_validator("assertions")
    @classmethod
    def _readable(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            Assertion.parse(text)
        return texts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warm_up_s >= self.duration_s:
            raise ValueError(f"warm_up_s {self.warm_up_s:g} is not below duration_s {self.duration_s:g}")
        names = [provider.name for provider in self.each_provider()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two providers are named {twice[0]!r}")
        return self

    def each_provider(self) -> tuple[ProviderModel, ...]:
        """The providers, copies one by one."""
        return tuple(copy for model in self.providers for copy in model.each())

    @classmethod
    def load(cls, path: Path | str, *, changes: Mapping[str, Any] | None = None) -> Self:
        """Read a TOML file; raises :class:`ScenarioError`, or ``OSError`` when there is none. Else as :meth:`parse`."""
        path = Path(path)
        return cls.parse(path.read_text(encoding="utf-8"), source=path.name, folder=path.parent, changes=changes)

    @classmethod
    def parse(
        cls, text: str, *, source: str = "scenario", folder: Path | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Self:
        """The same from TOML text; ``source`` is what errors call it, ``folder`` where a trace is looked for.

        ``changes`` are values to put in place of the file's: ``{"router.retry.max_retries": 0}``. A provider goes by
        its name: ``providers.alpha.capacity``.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ScenarioError(f"{source}: not TOML: {error}") from error
        for name, value in (changes or {}).items():
            _change(data, name, value, source)
        if isinstance(trace := data.get("trace"), str) and folder is not None:
            data["trace"] = folder / trace
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ScenarioError("\n".join(f"{source}: {line}" for line in _lines(error, data))) from None


def _change(data: dict[str, Any], name: str, value: Any, source: str) -> None:  # noqa: ANN401  # whatever TOML has
    """Put the value at its place; tables on the way are made, an item of a list goes by its name."""
    *tables, field = name.split(".")
    place: Any = data
    for table in tables:
        if isinstance(place, list):
            known = [str(item["name"]) for item in place if isinstance(item, dict) and "name" in item]
            place = next((item for item in place if isinstance(item, dict) and item.get("name") == table), None)
        elif isinstance(place, dict):
            known = []
            place = place.setdefault(table, {})
        if not isinstance(place, dict | list):
            hint = f"; known: {', '.join(known)}" if known else ""
            raise ScenarioError(f"{source}: {name}: there is no {table!r} to change{hint}")
    if not isinstance(place, dict):
        raise ScenarioError(f"{source}: {name}: say which one by its name")
    place[field] = value


def _lines(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """One line per fault: the table and the field as they stand in the file, then what is wrong."""
    faults = error.errors(include_url=False)
    inside = {fault["loc"][:1] for fault in faults if len(fault["loc"]) > 1}
    return [
        f"{place}: {fault['msg'].removeprefix('Value error, ')}" if (place := _place(fault["loc"], data))
        else fault["msg"].removeprefix("Value error, ")
        for fault in faults
        if not (fault["type"] == "too_short" and fault["loc"] in inside)  # none is left of those just told of
    ]


def _place(loc: tuple[int | str, ...], data: Any) -> str:  # noqa: ANN401  # whatever the file holds
    """``providers[2] 'gamma' .episodes[1].fails_in_s``: list items count from 1, and are named where they have one."""
    parts: list[str] = []
    value = data
    for step in loc:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list | tuple) and step < len(value) else None
            name = value.get("name") if isinstance(value, dict) else None
            parts[-1:] = [f"{parts[-1]}[{step + 1}]" + (f" ({name})" if name else "")]
        elif isinstance(value, dict) and step not in value and value.get("kind") == step:
            continue  # the tag of an episode is no level of the file
        else:
            parts.append(step)
            value = value.get(step) if isinstance(value, dict) else None
    return ".".join(parts)
