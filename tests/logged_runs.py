"""Rollouts to log: real runs of the graph, with a chat model that says what it is told, so that they cost no policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from langchain_core.messages import HumanMessage

from tests.scripted_chat import ScriptedChat
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.images import MemoryImageStore
from vtagent.protocol import is_well_formed, reply_of
from vtagent.training.data import Example, rendered
from vtagent.training.rewards import Reward
from vtagent.training.rl.log import LoggedRollout
from vtagent.training.rl.rollout import Rollout, Turn
from vtagent.views import View
from vtagent.visual_tokens import VisionSpec

TINY = VisionSpec(patch_size=8, merge_size=2, min_pixels=256, max_pixels=65536)
"""How the bundled policies see."""


@cache
def example(number: int = 0, *, seed: int = 3) -> Example:
    """A rendered document; even numbers are large print, odd ones small."""
    return list(rendered(1, seed=seed + number // 2))[number % 2]


@cache
def run(example: Example, *replies: str, max_zooms: int = 1) -> Rollout:
    """One run in which the policy says `replies`."""
    store = MemoryImageStore()
    model = ScriptedChat(lines=list(replies), profile={"image_tool_message": True})
    agent = create_zoom_agent(model, image_store=store, vision=TINY)
    message = HumanMessage([View(store.put(example.image)).block(), {"type": "text", "text": example.question}])
    state = agent.invoke({"messages": [message]}, context=ZoomContext(max_zooms=max_zooms))
    said = [m for m in state["messages"] if m.type == "ai"]
    return Rollout(
        example=example,
        answer=state["answer"],
        zooms=state["usage"]["zooms"],
        well_formed=all(is_well_formed(reply_of(m)) for m in said),
        stop=state["stop"],
        usage=state["usage"],
        views=tuple(state["views"]),
        messages=tuple(state["messages"]),
        turns=tuple(Turn((1, 2, 3), (4, 5), (-0.25, -0.75), "stop") for _ in said),
        seconds=0.125,
    )


def logged(
    rollout: Rollout, *, right: bool = True, penalty: float = 0.0, advantage: float | None = 0.5, group: int = 0
) -> LoggedRollout:
    """The run with a reward."""
    reward = Reward(accuracy=float(right), format=0.5 * rollout.well_formed, penalty=penalty)
    return LoggedRollout(rollout, None if rollout.error else reward, None if rollout.error else advantage, group)


def standardised(rows: Sequence[LoggedRollout]) -> list[LoggedRollout]:
    """The rows of one group with the advantages that their rewards give."""
    totals = [row.reward.total for row in rows if row.reward]
    mean = sum(totals) / len(totals)
    std = (sum((total - mean) ** 2 for total in totals) / len(totals)) ** 0.5
    return [
        LoggedRollout(
            row.rollout, row.reward, (row.reward.total - mean) / (std + 1e-6) if row.reward else None, row.group
        )
        for row in rows
    ]
