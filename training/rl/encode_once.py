"""The trainer's forward pass encodes each image once, however many rollouts of a batch show it.

The rollouts of a group show the same page, at one resolution or two; stock transformers encodes it for each of them.
"""

from __future__ import annotations

from typing import Any

import torch

from vtagent.models.local.ops import ATTENTION, PatchProjection


def encode_once(backbone: Any) -> None:
    """Change a model's `get_image_features` so that equal images of a call share their features and gradients.

    Args:
        backbone: A `Qwen3VLModel` or `Qwen2_5_VLModel`; its tower gets the batched attention and the plain patch
            projection that sampling uses, too.
    """
    if getattr(backbone, "encodes_once", False):
        return
    backbone.encodes_once = True
    stock = backbone.get_image_features
    if backbone.visual.config._attn_implementation in ("sdpa", "eager"):
        backbone.visual.config._attn_implementation = ATTENTION
    if not isinstance(backbone.visual.patch_embed, PatchProjection):
        backbone.visual.patch_embed = PatchProjection(backbone.visual.patch_embed)

    def get_image_features(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        first, places = distinct(pixel_values, image_grid_thw)
        if len(first) == len(places):
            return stock(pixel_values, image_grid_thw, **kwargs)
        patches = torch.split(pixel_values, image_grid_thw.prod(-1).tolist())
        out = stock(torch.cat([patches[image] for image in first]), image_grid_thw[first], **kwargs)
        out.pooler_output = tuple(out.pooler_output[place] for place in places)
        if getattr(out, "deepstack_features", None):
            out.deepstack_features = [tuple(layer[place] for place in places) for layer in out.deepstack_features]
        return out

    backbone.get_image_features = get_image_features


def distinct(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> tuple[list[int], list[int]]:
    """Which images of a batch are new, and which of these each image is.

    Args:
        pixel_values: (patches of all images, patch_dim).
        image_grid_thw: (images, 3).

    Returns:
        The numbers of the first of equal images, by size and then in their order; and for each image its place there.
    """
    patches = torch.split(pixel_values, image_grid_thw.prod(-1).tolist())
    grids = [tuple(grid) for grid in image_grid_thw.tolist()]
    known: dict[tuple[object, float], list[int]] = {}
    same: list[int] = []
    for image, own in enumerate(patches):
        candidates = known.setdefault((grids[image], own.sum(dtype=torch.float64).item()), [])
        found = next((other for other in candidates if torch.equal(patches[other], own)), None)
        if found is None:
            candidates.append(image)
        same.append(image if found is None else found)
    first = sorted(set(same), key=lambda image: (grids[image], image))
    place = {image: number for number, image in enumerate(first)}
    return first, [place[image] for image in same]
