"""Which examples each generation takes: a function of the seed and the generation's number, so resuming is exact."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler


class Windows(Sampler[int]):
    """The indices of a whole run, generation after generation, as TRL's data loader wants them.

    TRL's own sampler starts its first epoch again when a run is resumed. Here the run is one long epoch: pass after
    pass over the examples, each in an order of its own, cut into generations. A checkpoint only remembers its step.

    Args:
        examples: How many there are.
        prompts: Prompts of one generation, on all processes together.
        rollouts: Rollouts of each prompt.
        batches: Forward-backward passes that one generation is used for; its indices come once for each.
        windows: Generations of the run.
        shuffle: Whether the order is random.
        seed: Of that order.
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
        """Examples without end; those that are left over at the end of a pass come first in the next."""
        number = 0
        while True:
            order = list(range(self.examples))
            if self.shuffle:
                random.Random(f"{self.seed}/order/{number}").shuffle(order)
            yield from order
            number += 1


def seed_of(*parts: object) -> int:
    """A seed that follows from what it is for, such as ("rollout", 7, window, row)."""
    return random.Random("/".join(map(str, parts))).getrandbits(48)
