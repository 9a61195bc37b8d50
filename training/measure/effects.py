"""What the tool does to each question: whether a zoom helped, hurt or made no difference.

Every question is asked twice, with zooming forced and forbidden. The pair says what the decision is worth, whatever the
policy decides by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vtagent.training.measure.outcomes import Outcome
from vtagent.training.measure.summaries import OVERALL, Estimate, estimate, resolved_mix

ZOOM, DIRECT = "forced-zoom", "forced-direct"
"""The modes that are compared."""


@dataclass(frozen=True)
class ToolEffect:
    """What a zoom does to the questions of one source, or of all; shares of the questions, with 95 % intervals."""

    source: str
    """`OVERALL` for all sources."""
    questions: int
    """Questions with a verdict in both modes."""
    helped: Estimate
    """Right with a zoom alone."""
    hurt: Estimate
    """Right without a zoom alone."""
    no_difference: Estimate
    """Right either way, or wrong either way."""
    both_right: Estimate
    """Right either way."""


def verdict_pairs(outcomes: Iterable[Outcome]) -> dict[str, list[tuple[bool, bool]]]:
    """{source: (right without a zoom, right with one) of each question that both modes have answered}.

    A run that failed or could not be graded leaves its question out.
    """
    known = {
        (o.mode, o.number): o for o in outcomes if o.mode in (ZOOM, DIRECT) and o.right is not None and not o.error
    }
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for (mode, number), direct in sorted(known.items()):
        if mode == DIRECT and (zoom := known.get((ZOOM, number))) is not None:
            pairs.setdefault(direct.source, []).append((bool(direct.right), bool(zoom.right)))
    return pairs


def tool_effects(outcomes: Sequence[Outcome], *, mix: Mapping[str, float] | None = None) -> list[ToolEffect]:
    """Compare forced zooms with forced direct answers.

    Args:
        outcomes: At most one for each question and mode.
        mix: The weight of each source in the overall row, as for `summarize`.

    Returns:
        One per source in the order of their names, then the overall one if there are several; none if the outcomes do
        not hold both modes.

    Raises:
        DataError: As `summarize`.
    """
    pairs = verdict_pairs(outcomes)
    sources = sorted(pairs)
    found = [_effect(source, {source: pairs[source]}, {source: 1.0}) for source in sources]
    if len(sources) > 1:
        known = sorted({outcome.source for outcome in outcomes})
        weights = resolved_mix(mix, known) if mix else {source: float(len(pairs[source])) for source in sources}
        counted = {source: pairs[source] for source in sources if weights.get(source)}
        if counted:
            found.append(_effect(OVERALL, counted, weights))
    return found


def _effect(source: str, pairs: Mapping[str, Sequence[tuple[bool, bool]]], weights: Mapping[str, float]) -> ToolEffect:
    def share(*kinds: tuple[bool, bool]) -> Estimate:
        found = estimate({name: [[pair in kinds] for pair in part] for name, part in pairs.items()}, weights)
        assert found is not None  # no part is empty
        return found

    return ToolEffect(
        source=source,
        questions=sum(map(len, pairs.values())),
        helped=share((False, True)),
        hurt=share((True, False)),
        no_difference=share((True, True), (False, False)),
        both_right=share((True, True)),
    )
