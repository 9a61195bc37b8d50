"""Measures during training what the decision is worth: accuracy with zooming forced and forbidden.

The questions stay the same. If the accuracy with forced zooming falls, the policy is losing its ability to read. If
both accuracies are equal, zooming gains nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.asking import ask
from vtagent.training.measure.modes import MODES
from vtagent.training.rewards import Grader

QUESTIONS = 32
_FORCED = {"forced/zoom": "forced-zoom", "forced/direct": "forced-direct"}


class ForcedProbe:
    """Asks at most `QUESTIONS` of the training examples with the decision taken away.

    Args:
        model: The policy, greedy. Its images go to its own store.
        grader: Says what is right.
        examples: What is trained on; evenly spaced ones are asked.
        context: The settings of every run in training.
        limit: Seconds that a run may take.
        build: Makes the graph.
    """

    def __init__(
        self,
        model: ChatVLM,
        grader: Grader,
        examples: Sequence[Example],
        *,
        context: ZoomContext,
        limit: float,
        build: Callable[[ChatVLM], Any] = create_zoom_agent,
    ) -> None:
        self._model, self._grader, self._limit = model, grader, limit
        self._agent = build(model)
        self._modes = {name: MODES[mode].adapted(context.scale, context.max_zooms) for name, mode in _FORCED.items()}
        step = max(1, len(examples) // QUESTIONS)
        self._examples = [examples[place] for place in range(0, len(examples), step)][:QUESTIONS]

    async def measure(self) -> dict[str, float]:
        """Ask all questions in both modes.

        Returns:
            Accuracy by metric name. Failed runs and ungraded answers do not count.
        """
        found = {}
        for name, mode in self._modes.items():
            asked = await asyncio.gather(
                *(
                    ask(self._agent, self._model, example, mode, self._grader, timeout=self._limit)
                    for example in self._examples
                )
            )
            right = [
                bool(fields["right"]) for fields in asked if not fields.get("error") and fields["right"] is not None
            ]
            if right:
                found[f"{name}/accuracy"] = fmean(right)
        return found
