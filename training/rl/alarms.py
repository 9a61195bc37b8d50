"""Alarms: reads a run's log as it grows and says in one line, once each, that the decision is about to be lost.

    penalty has turned   an easy source zooms so often that the penalty now pushes it to zoom always
    decision is settled  a source hardly ever or nearly always zooms, although its forced accuracies speak against it
    decision is certain  early in training the policy is already sure of its decision everywhere

The first follows from the rule of the paper's penalty. Zooms pay while r >= threshold. If a direct answer is right with
probability a_low and a zoom with a_full, and a share p of the rollouts zooms, r is (1 - p) a_low / ((1 - p) a_low +
p a_full). So direct answers begin to pay where

    p / (1 - p) > (a_low / a_full) · (1 - threshold) / threshold

that is above p = 1 - threshold, if both ways are equally right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from vtagent.training.measure.drift import swap_share
from vtagent.training.rewards import Penalty

WINDOW = 5
"""Logged steps whose mean is looked at. A step has only some dozens of rollouts of a source, so its share is noisy."""
EASY = 0.9
"""A source is easy if direct answers are right at least this share as often as zooms."""
RARE, NEARLY_ALL = 0.02, 0.98
"""Shares of zooms below and above which the decision is settled: hardly any group teaches anything about it."""
DIFFERENT = 0.1
"""Accuracies that differ by less are taken for equal: a probe asks a few dozen questions."""
CERTAIN = 0.05
"""Entropy of the decision in nats that is near 0: the likelier way has a probability of 99 %."""
EARLY = 0.2
"""Share of the training that counts as early."""
_WITH_THRESHOLD = ("paper", "paper-correct-only", "reference")


@dataclass
class Alarms:
    """Reads the entries of a log in their order."""

    penalty: Penalty
    threshold: float
    max_steps: int
    _recent: dict[str, deque[float]] = field(default_factory=dict, repr=False)
    _probed: dict[str, float] = field(default_factory=dict, repr=False)
    _said: set[tuple[str, str]] = field(default_factory=set, repr=False)

    def read(self, step: float, entry: Mapping[str, object]) -> list[str]:
        """Read an entry of the log.

        Args:
            step: The step that it is of.
            entry: The metrics; see `rl.metrics.rollout_metrics` and `measure.asking.ForcedProbe`.

        Returns:
            The alarms that are new, one line each.
        """
        numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            if name.startswith("forced/"):
                self._probed[name] = value
            else:
                self._recent.setdefault(name, deque(maxlen=WINDOW)).append(value)
        found: list[tuple[str, str, str]] = []
        for name in numbers:
            kind, _, source = name.partition("/")
            if kind == "zoom" and f"accuracy/{source}" in numbers and source != "all":
                found += self._of_source(source)
        found += self._of_all(step)
        fresh = [(kind, source, text) for kind, source, text in found if (kind, source) not in self._said]
        self._said |= {(kind, source) for kind, source, _ in fresh}
        return [f"step {step:g}: {text}" for _, _, text in fresh]

    def _mean(self, name: str) -> float | None:
        """The mean of a metric over a whole window; None before one is full."""
        values = self._recent.get(name, ())
        return fmean(values) if len(values) == WINDOW else None

    def _of_source(self, source: str) -> list[tuple[str, str, str]]:
        p = self._mean(f"zoom/{source}")
        if p is None:
            return []
        found = []
        a_low, a_full = self._mean(f"direct_accuracy/{source}"), self._mean(f"zoomed_accuracy/{source}")
        if self.penalty in _WITH_THRESHOLD and a_low is not None and a_full and a_low >= EASY * a_full:
            swap = swap_share(a_low, a_full, self.threshold)
            if p > swap:
                text = (
                    f"{source}: {p:.0%} zoom, above {swap:.0%}, although direct answers are as good: {a_low:.0%} are "
                    f"right, {a_full:.0%} after a zoom. From here the penalty falls on direct answers and drives the "
                    "share up: restart with a lower threshold, or with penalty tokens."
                )
                found.append(("turned", source, text))
        direct, zoom = (self._probed.get(f"forced/{way}/accuracy/{source}") for way in ("direct", "zoom"))
        if direct is not None and zoom is not None:
            forced = f"forced to zoom, {zoom:.0%} are right, forced to answer, {direct:.0%}"
            if p < RARE and zoom - direct >= DIFFERENT:
                text = f"{source}: {p:.1%} zoom, but {forced}. Its groups no longer teach to zoom: restart with a "
                found.append(("settled", source, text + "smaller penalty_size, or more of this source."))
            if p > NEARLY_ALL and zoom - direct < DIFFERENT:
                text = f"{source}: {p:.1%} zoom, but {forced}. Its groups no longer teach to answer: restart with a "
                found.append(("settled", source, text + "penalty that makes zooms pay, or more of this source."))
        return found

    def _of_all(self, step: float) -> list[tuple[str, str, str]]:
        entropy = self._mean("decision/entropy")
        if entropy is None or entropy >= CERTAIN or step > EARLY * self.max_steps:
            return []
        text = (
            f"the decision has an entropy of {entropy:.3f} nats in the first {EARLY:.0%} of training: it is all but "
            "made before the sources are told apart. Lower learning_rate, or raise beta."
        )
        return [("certain", "", text)]
