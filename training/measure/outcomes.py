"""An outcome is what came of one question in one mode, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vtagent.graphs.state import ViewRecord
from vtagent.regions import SCALE, Region
from vtagent.views import View

_WHOLE = Region(0, 0, SCALE, SCALE)


@dataclass(frozen=True)
class Outcome:
    """One question in one mode."""

    mode: str
    source: str
    id: str
    question: str
    gold: str
    answer: str | None
    right: bool | None
    """None: the answer could not be graded (a judge was down). A run that failed is not right."""
    zooms: int
    visual_tokens: int
    """Of all views that were shown."""
    full_visual_tokens: int
    """What full resolution at once would have cost. 0 of a run that failed."""
    seconds: float
    """From the question's start to its answer, with all others under way."""
    kept_visual_tokens: int = 0
    """Of the views that remain when those are left out that another shows more finely; see `kept_tokens`."""
    stop: str | None = None
    """Which budget forced the answer, if any."""
    error: str | None = None
    """Why the run failed."""
    number: int = 0
    """Which of the examples it was, from 0."""
    ended: float = 0.0
    """Seconds from the start of its mode, in its session, to its end."""
    session: int = 0
    """How many times the evaluation had been interrupted before."""


def kept_tokens(views: Sequence[ViewRecord]) -> int:
    """Visual tokens of the views that no other one covers: the same image, all of its part, at a larger scale.

    Where the whole image was zoomed this is its full resolution alone: the low view that stays in context beside it
    is not counted. So a policy that zooms with share p keeps 25 % + p · 75 % of full resolution, and reads
    25 % + p · 100 %; methods that prune tokens report the former.
    """
    distinct = {view["url"]: view for view in views}
    return sum(view["tokens"] for url, view in distinct.items() if not _is_covered(url, distinct))


def _is_covered(url: str, urls: Iterable[str]) -> bool:
    sha256, scale, region = View.parse_url(url)
    for other in urls:
        other_sha256, other_scale, other_region = View.parse_url(other)
        same = other_sha256 == sha256 and (other_region or _WHOLE).contains(region or _WHOLE)
        if same and other != url and other_scale >= scale:
            return True
    return False


def wall_seconds(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """How long each mode took from its first question to its last answer, its interruptions left out."""
    ends: dict[tuple[str, int], float] = {}
    for outcome in outcomes:
        key = outcome.mode, outcome.session
        ends[key] = max(ends.get(key, 0.0), outcome.ended)
    walls: dict[str, float] = {}
    for (mode, _), seconds in ends.items():
        walls[mode] = walls.get(mode, 0.0) + seconds
    return walls
