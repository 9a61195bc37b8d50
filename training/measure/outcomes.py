"""An outcome: the result of one question in one mode, and its cost."""

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
    """None: the answer could not be graded (a judge was down). A failed run is not right."""
    zooms: int
    visual_tokens: int
    """The cost of all views that were shown."""
    full_visual_tokens: int
    """The cost of full resolution at once. 0 for a failed run."""
    seconds: float
    """From the start of the run to its answer, with the others in progress."""
    kept_visual_tokens: int = 0
    """The cost without views that another view shows at a larger scale. See `kept_tokens`."""
    stop: str | None = None
    """The budget that forced the answer, if any."""
    error: str | None = None
    """Why the run failed."""
    number: int = 0
    """The number of the example, from 0."""
    ended: float = 0.0
    """Seconds from the start of the mode in this session to the end of the run."""
    session: int = 0
    """How often the evaluation was interrupted before."""
    regions: int = 0
    """Zooms into a part of an image; see `Looks`."""
    area: float = 0.0
    """See `Looks`."""
    holding: int | None = None
    """See `Looks`."""
    abstained: bool = False
    """Whether the answer says that the image does not hold what was asked for."""
    unanswerable: bool = False
    """Whether that is the gold answer."""


@dataclass(frozen=True)
class Looks:
    """Where the zooms of a run looked."""

    regions: int = 0
    """Zooms into a part of an image, not all of it."""
    area: float = 0.0
    """Sum over the zooms of the share of the image that each shows, 0 to 1 each."""
    holding: int | None = None
    """Zooms that show all of the asked value. None: its place is not known."""


def looks_of(views: Iterable[ViewRecord], value_box: Region | None) -> Looks:
    """Where the zooms of a run looked.

    Args:
        views: The views that the run showed. Those that were not asked for do not count.
        value_box: Where the asked value stands on the image.
    """
    shown = [Region(*view["region"]) if view["region"] else _WHOLE for view in views if view["kind"] == "zoom"]
    return Looks(
        regions=sum(not region.is_whole for region in shown),
        area=sum((region.x2 - region.x1) * (region.y2 - region.y1) / SCALE**2 for region in shown),
        holding=None if value_box is None else sum(region.contains(value_box) for region in shown),
    )


def kept_tokens(views: Sequence[ViewRecord]) -> int:
    """Visual tokens of the views that no other view covers.

    A view covers another if it shows all of its part of the same image at least as finely. If the whole image was
    zoomed, only its full resolution counts, although the low view stays in context. A policy that zooms with share p
    keeps 25 % + p · 75 % of full resolution and reads 25 % + p · 100 %. Methods that prune tokens report the former.
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
    """Seconds that each mode took from its first question to its last answer, without interruptions."""
    ends: dict[tuple[str, int], float] = {}
    for outcome in outcomes:
        key = outcome.mode, outcome.session
        ends[key] = max(ends.get(key, 0.0), outcome.ended)
    walls: dict[str, float] = {}
    for (mode, _), seconds in ends.items():
        walls[mode] = walls.get(mode, 0.0) + seconds
    return walls
