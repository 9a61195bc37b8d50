"""Makes the trainer's forward pass encode each image once, however many rollouts of a batch show it.

The rollouts of a group show the same image, at one resolution or two. Stock transformers encodes it for each of them.
"""

from __future__ import annotations

from typing import Any

import torch

from vtagent.models.families import family_of
from vtagent.models.local.ops import ATTENTION, PatchProjection


def encode_once(backbone: Any) -> None:
    """Change a model so that equal images of one forward pass share their features and gradients.

    The vision tower also gets the faster attention and patch projection of `models.local.ops`. A second call on the
    same model changes nothing.

    Args:
        backbone: The model without its head: a `Qwen3VLModel` or `Qwen2_5_VLModel`.

    Raises:
        ModelError: The model is not of a served family.
    """
    if hasattr(backbone, "encodes_once"):
        return
    backbone.encodes_once = True
    deepstack = family_of(backbone.config.model_type).deepstack
    stock = backbone.get_image_features
    if backbone.visual.config._attn_implementation in ("sdpa", "eager"):
        backbone.visual.config._attn_implementation = ATTENTION
    if not isinstance(backbone.visual.patch_embed, PatchProjection):
        backbone.visual.patch_embed = PatchProjection(backbone.visual.patch_embed)

    def get_image_features(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        """The stock method's result, computed for the distinct images.

        Args:
            pixel_values: (patches of all images, patch_dim), floating point.
            image_grid_thw: (images, 3) int64.
            **kwargs: Arguments of the stock method.

        Returns:
            With `pooler_output`, and for deepstack with each of `deepstack_features`: (visual tokens, hidden) for each
            image.
        """
        first, places = distinct(pixel_values, image_grid_thw)
        if len(first) == len(places):
            return stock(pixel_values, image_grid_thw, **kwargs)
        patches = torch.split(pixel_values, image_grid_thw.prod(-1).tolist())
        out = stock(torch.cat([patches[image] for image in first]), image_grid_thw[first], **kwargs)
        out.pooler_output = tuple(out.pooler_output[place] for place in places)
        if deepstack:
            out.deepstack_features = [tuple(layer[place] for place in places) for layer in out.deepstack_features]
        return out

    backbone.get_image_features = get_image_features


def distinct(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> tuple[list[int], list[int]]:
    """Find the distinct images of a batch.

    Args:
        pixel_values: (patches of all images, patch_dim), floating point.
        image_grid_thw: (images, 3) int64: frames, rows and columns of patches.

    Returns:
        Indices of the distinct images (the first of equal ones), ordered by size and then by index; and for each image,
        which of these it equals.
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
