"""What the decision is worth while it is learned: accuracy with it forced either way, on questions that stay the same.

An accuracy that falls when zooming is forced means that reading is being lost; where both are equal, looking closer
buys nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import fmean

from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.training.data import Example
from vtagent.training.measure.asking import ask
from vtagent.training.measure.modes import MODES
from vtagent.training.rewards import Grader

QUESTIONS = 32
_FORCED = {"forced/zoom": "forced-zoom", "forced/direct": "forced-direct"}


class ForcedProbe:
    """Asks some of the training examples, greedily, with the decision taken away.

    Args:
        model: The policy; its images go to its own store.
        grader: Says what is right.
        examples: What is trained on.
    """

    def __init__(self, model: ChatVLM, grader: Grader, examples: Sequence[Example]) -> None:
        self._model, self._grader = model, grader
        step = max(1, len(examples) // QUESTIONS)
        self._examples = [examples[place] for place in range(0, len(examples), step)][:QUESTIONS]

    async def measure(self) -> dict[str, float]:
        """Accuracy by metric name; unscorable answers are left out."""
        agent = create_zoom_agent(self._model, store=self._model.store)
        found = {}
        for name, mode in _FORCED.items():
            asked = await asyncio.gather(
                *(ask(agent, self._model, example, MODES[mode], self._grader) for example in self._examples)
            )
            right = [bool(fields["right"]) for fields in asked if fields["right"] is not None]
            if right:
                found[f"{name}/accuracy"] = fmean(right)
        return found
