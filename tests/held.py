"""A provider that answers when it is told to, and requests that nobody waits for: for the tests of the queue."""

from __future__ import annotations

import asyncio

from orchestrator import Completion, ProviderConfig
from orchestrator.providers.base import EVERYTHING, BaseProvider


class Held(BaseProvider):
    """Answers when it is told to."""

    supports = EVERYTHING

    def __init__(self, name="a", **config):
        super().__init__(ProviderConfig(name=name, **config))
        self.asked = []
        self.calls = []

    async def complete(self, request):
        self.asked.append(request.prompt)
        self.calls.append(asyncio.get_running_loop().create_future())
        return Completion(await self.calls[-1])

    def answer(self):
        next(call for call in self.calls if not call.done()).set_result("x")


def ask(router, *prompts, **options):
    """The tasks of these requests, begun in this order; their errors may be left alone."""
    tasks = [asyncio.create_task(router.route(prompt, **options)) for prompt in prompts]
    for task in tasks:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return tasks
