"""Compares runs of one training under several penalties and from several starts: tables and a figure.

A figure over several seeds is their mean, with the least and the greatest. The table sets the direction in which the
share of zooms was predicted to go (`measure.drift`) beside the one in which it went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from vtagent.errors import SettingsError
from vtagent.training.measure.curves import History, by_source, curve
from vtagent.training.measure.drift import SHOWN, Drift, Rates, Shown, swap_share
from vtagent.training.measure.markdown import markdown_table
from vtagent.training.measure.plots import Series
from vtagent.training.rewards import PENALTIES, RewardSettings

WINDOW = 5
"""Steps per moving average. A step has only some dozens of rollouts, so its share is noisy."""
_WITH_THRESHOLD = ("paper", "paper-correct-only", "reference")
_NONE = "–"


@dataclass(frozen=True)
class Rule:
    """A penalty, with its threshold if that is not the recipe's."""

    penalty: str
    threshold: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a penalty as the command line gives it, such as "off" or "paper=0.2".

        Raises:
            SettingsError: There is no such penalty, or it has no such threshold.
        """
        penalty, equals, number = text.partition("=")
        if penalty not in PENALTIES:
            raise SettingsError(f"penalty {text!r}: write one of {', '.join(PENALTIES)}, or paper=0.2 for a threshold")
        if not equals:
            return cls(penalty)
        if penalty not in _WITH_THRESHOLD:
            raise SettingsError(
                f"penalty {text!r}: only {', '.join(_WITH_THRESHOLD)} have a threshold; write {penalty}"
            )
        try:
            threshold = float(number)
        except ValueError:
            threshold = -1.0
        if not 0 <= threshold <= 1:
            raise SettingsError(f"penalty {text!r}: the threshold must be a number between 0 and 1")
        return cls(penalty, threshold)

    @property
    def name(self) -> str:
        """For folders, such as "paper-0.2"."""
        return self.penalty if self.threshold is None else f"{self.penalty}-{self.threshold:g}"

    @property
    def label(self) -> str:
        """For people, such as "paper, θ = 0.2"."""
        return self.penalty if self.threshold is None else f"{self.penalty}, θ = {self.threshold:g}"

    def settings(self, recipe: RewardSettings) -> RewardSettings:
        """The rewards of a run under this rule; all else is the recipe's."""
        threshold = recipe.threshold if self.threshold is None else self.threshold
        return RewardSettings(
            penalty=self.penalty,  # type: ignore[arg-type] # checked by `parse`
            penalty_size=recipe.penalty_size,
            threshold=threshold,
            format_reward=recipe.format_reward,
        )


@dataclass(frozen=True)
class Beginning:
    """What is known of a start policy before training."""

    share: float
    """Probability of a zoom."""
    pages: Mapping[str, Sequence[Rates]]
    """By source the accuracies of each page, answered directly and after a zoom."""
    shown: Shown = SHOWN

    @property
    def mixture(self) -> list[Rates]:
        """The accuracies of all pages."""
        return [rates for pages in self.pages.values() for rates in pages]

    def accuracies(self, source: str) -> Rates:
        """The mean accuracies of a source."""
        direct, zoom = zip(*self.pages[source], strict=True)
        return fmean(direct), fmean(zoom)


@dataclass(frozen=True)
class Comparison:
    """Finished runs, and what was known before they began."""

    recipe: RewardSettings
    """The rewards of the recipe, whose penalty the rules replace."""
    rollouts: int
    """Rollouts of a group."""
    beginnings: Mapping[str, Beginning]
    """By the name of the start."""
    runs: Mapping[str, Mapping[Rule, Sequence[History]]] = field(default_factory=dict)
    """By the name of the start and the rule: the log of each seed's run."""

    def predicted(self, start: str, rule: Rule) -> float:
        """The predicted drift at the start: positive if zooming becomes likelier."""
        beginning = self.beginnings[start]
        return self._drift(start, rule).at(beginning.share, beginning.mixture)

    def _drift(self, start: str, rule: Rule) -> Drift:
        return Drift(rule.settings(self.recipe), rollouts=self.rollouts, shown=self.beginnings[start].shown)

    @property
    def sources(self) -> list[str]:
        """The sources that the runs have logged."""
        logs = [log for rules in self.runs.values() for histories in rules.values() for log in histories]
        return sorted({source for log in logs for source in by_source(log, "zoom")})

    def panels(self) -> dict[str, dict[str, Series]]:
        """{title: {rule: the share that zooms against steps}} for the figure, with a panel per start and source."""
        found: dict[str, dict[str, Series]] = {}
        for start, rules in self.runs.items():
            for source in self.sources:
                lines = {
                    rule.label: shares[source] for rule, log in rules.items() if source in (shares := zoom_shares(log))
                }
                if lines:
                    found[f"{source}, from a share of {start}"] = lines
        return found

    def agreement(self) -> tuple[int, int]:
        """The number of runs that went where they were predicted to go, and the number of all runs."""
        went = [
            (direction > 0) == (self.predicted(start, rule) > 0)
            for start, rules in self.runs.items()
            for rule, histories in rules.items()
            for direction in map(change, histories)
        ]
        return sum(went), len(went)

    def table(self) -> str:
        """A Markdown table with a line per start and penalty."""
        sources = self.sources
        head = ["start", "penalty", "predicted", "went", "rest points"]
        head += [f"{source}: zooms, first → last" for source in sources]
        head += [f"{source}: right at the end" for source in sources] + ["tokens of full"]
        rows = []
        for start, rules in self.runs.items():
            for rule, histories in rules.items():
                if not histories:
                    continue
                drift = self.predicted(start, rule)
                rests = self._drift(start, rule).rest_points(self.beginnings[start].mixture)
                cells = [
                    start,
                    rule.label,
                    f"{_arrow(drift)} ({drift:+.3f})",
                    "".join(map(_arrow, map(change, histories))),
                ]
                cells.append(", ".join(f"{rest:.2f}" for rest in rests) or _NONE)
                for source in sources:
                    zooms = [smoothed(own[source]) for log in histories if source in (own := by_source(log, "zoom"))]
                    cells.append(f"{_ends(zooms, WINDOW - 1)} → {_ends(zooms, -1)}")
                cells += [_last([by_source(log, "accuracy").get(source) for log in histories]) for source in sources]
                cells.append(_last([curve(log, "visual_tokens/of_full") for log in histories]))
                rows.append(cells)
        return markdown_table(head, rows)

    def swap_table(self) -> str:
        """A Markdown table of the rule: above which share of zooms direct answers pay, by start, source and θ."""
        thresholds = sorted(
            {rule.threshold for rules in self.runs.values() for rule in rules if rule.threshold is not None}
        )
        head = ["start", "source", "share that zooms", "right directly", "right after a zoom"]
        head += [f"swap at θ = {threshold:g}" for threshold in thresholds]
        rows = []
        for start, beginning in self.beginnings.items():
            for source in sorted(beginning.pages):
                direct, zoom = beginning.accuracies(source)
                swaps = [f"{swap_share(direct, zoom, threshold):.2f}" for threshold in thresholds]
                rows.append([start, source, f"{beginning.share:.2f}", f"{direct:.0%}", f"{zoom:.0%}", *swaps])
        return markdown_table(head, rows)

    def mixture_table(self, shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)) -> str:
        """A Markdown table of predicted rest points, by the share of the pages that the easiest source has."""
        start, beginning = next(iter(self.beginnings.items()))
        if len(beginning.pages) < 2:
            return ""
        easiest = max(beginning.pages, key=lambda source: beginning.accuracies(source)[0])
        rules = list(dict.fromkeys(rule for own in self.runs.values() for rule in own))
        rows = []
        for rule in rules:
            drift, cells = self._drift(start, rule), []
            for share in shares:
                weights: dict[Rates, float] = {}
                others = sum(len(pages) for source, pages in beginning.pages.items() if source != easiest)
                for source, pages in beginning.pages.items():
                    weight = share / len(pages) if source == easiest else (1 - share) / others
                    for rates in pages:
                        weights[rates] = weights.get(rates, 0.0) + weight
                cells.append(", ".join(f"{rest:.2f}" for rest in drift.rest_points(weights)) or _NONE)
            rows.append([rule.label, *cells])
        return markdown_table([f"rest points, with {easiest}:", *(f"{share:.0%}" for share in shares)], rows)


def change(history: History) -> float:
    """How far the share of all rollouts that zoom has gone: the mean of the last steps minus that of the first."""
    shares = curve(history, "zoom/all")
    if shares is None:
        return 0.0
    return fmean(shares.y[-WINDOW:]) - fmean(shares.y[:WINDOW])


def smoothed(series: Series, window: int = WINDOW) -> Series:
    """The moving average of a series.

    Args:
        series: The series.
        window: Steps per average: each step and those before it. The first steps have fewer.
    """
    means = [fmean(series.y[max(0, end - window) : end]) for end in range(1, len(series.y) + 1)]
    return Series(series.x, means)


def over_seeds(curves: Sequence[Series]) -> Series:
    """The mean of several curves at the steps that all of them have, with the lowest and the highest as a band."""
    values = [dict(zip(own.x, own.y, strict=True)) for own in curves]
    steps = sorted(set.intersection(*(set(own) for own in values)))
    at = [[own[step] for own in values] for step in steps]
    return Series(steps, [fmean(own) for own in at], [min(own) for own in at], [max(own) for own in at])


def zoom_shares(histories: Sequence[History]) -> dict[str, Series]:
    """{source: the share that zooms against steps}, smoothed and averaged over the runs."""
    found = [by_source(history, "zoom") for history in histories]
    sources = sorted({source for own in found for source in own})
    return {source: over_seeds([smoothed(own[source]) for own in found if source in own]) for source in sources}


def _arrow(direction: float) -> str:
    return "↑" if direction > 0 else "↓" if direction < 0 else "="


def _ends(curves: Sequence[Series], place: int) -> str:
    """The values of the curves at a place, as a cell; of a shorter curve the last."""
    if not curves:
        return _NONE
    values = [100 * own.y[place if -len(own.y) <= place < len(own.y) else -1] for own in curves]
    low, high = min(values), max(values)
    return f"{fmean(values):.0f} %" if high - low < 0.5 else f"{fmean(values):.0f} % ({low:.0f}–{high:.0f})"


def _last(curves: Sequence[Series | None]) -> str:
    """The last values of the smoothed curves, as a cell."""
    return _ends([smoothed(own) for own in curves if own is not None], -1)
