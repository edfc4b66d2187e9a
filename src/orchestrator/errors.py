"""Public name of the error tree; drawn and defined in :mod:`orchestrator.core.errors`."""

from orchestrator.core.errors import *  # noqa: F403  # the same sorted list, under its public name
from orchestrator.core.errors import __all__ as __all__  # noqa: PLC0414  # re-exported on purpose
