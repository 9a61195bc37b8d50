"""The yardstick for exactness: one plain forward pass of the stock model over a whole sequence, nothing reused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vtagent.models.engine import EngineImage
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.placeholders import expand


def full_logits(engine: TransformersEngine, ids: Sequence[int], images: Sequence[EngineImage]) -> torch.Tensor:
    """Logits (expanded tokens, vocabulary) of collapsed ids and their images."""
    processor = engine.processor
    expanded = expand(ids, images, processor.vision, processor.image_token_id)
    inputs: dict[str, Any] = {"input_ids": torch.tensor([expanded])}
    inputs["mm_token_type_ids"] = torch.eq(inputs["input_ids"], processor.image_token_id).int()
    if images:
        pixels, grids = processor.pixels([image.pixels for image in images])
        inputs |= {"pixel_values": pixels, "image_grid_thw": grids}
    engine.model.model.rope_deltas = None
    visual = engine.model.model.visual.config
    ours, visual._attn_implementation = visual._attn_implementation, "eager"  # the stock loop over images
    try:
        with torch.no_grad():
            logits: torch.Tensor = engine.model(**inputs).logits[0]
    finally:
        visual._attn_implementation = ours
    return logits


def rescored(
    engine: TransformersEngine,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    images: Sequence[EngineImage],
    *,
    temperature: float,
) -> list[float]:
    """Logprobs of a completion after its (collapsed) prompt; temperature 0 counts as 1."""
    logits = full_logits(engine, [*prompt_ids, *completion_ids], images) / (temperature or 1.0)
    sampled = torch.tensor(list(completion_ids))
    logprobs = logits.log_softmax(-1)[-len(sampled) - 1 : -1]
    found: list[float] = logprobs.gather(-1, sampled[:, None])[:, 0].tolist()
    return found
