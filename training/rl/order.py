"""Which examples each generation batch takes. It follows from the seed and the batch's number, so resuming is exact.

A window is the stretch of the data that one generation batch takes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler


class Windows(Sampler[int]):
    """The indices of a whole run, window after window, in the form that TRL's data loader takes.

    TRL's own sampler starts its first epoch again when a run is resumed. Here the run is one long epoch: it passes over
    the examples again and again, each time in another order, and is cut into windows. So a checkpoint needs to hold
    only its step.

    Args:
        examples: Number of examples.
        prompts: Prompts per window, on all processes together.
        rollouts: Rollouts per prompt.
        batches: Forward-backward passes per window. The indices of a window come once for each.
        windows: Number of windows in the run.
        shuffle: Whether the order is random.
        seed: The seed of the order.
    """

    def __init__(
        self, examples: int, *, prompts: int, rollouts: int, batches: int, windows: int, shuffle: bool, seed: int
    ) -> None:
        self.examples, self.prompts, self.rollouts = examples, prompts, rollouts
        self.batches, self.windows, self.shuffle, self.seed = batches, windows, shuffle, seed

    def __len__(self) -> int:
        return self.windows * self.batches * self.prompts * self.rollouts

    def __iter__(self) -> Iterator[int]:
        stream = self._stream()
        for _ in range(self.windows):
            window = [next(stream) for _ in range(self.prompts)]
            for _ in range(self.batches):
                for index in window:
                    yield from [index] * self.rollouts

    def _stream(self) -> Iterator[int]:
        """Endless indices: one pass over the examples after another. A window may span two passes."""
        number = 0
        while True:
            order = list(range(self.examples))
            if self.shuffle:
                random.Random(f"{self.seed}/order/{number}").shuffle(order)
            yield from order
            number += 1


def seed_of(*parts: object) -> int:
    """A seed of 48 bits that depends on what it is for, such as ("rollout", 7, window, place)."""
    return random.Random("/".join(map(str, parts))).getrandbits(48)
