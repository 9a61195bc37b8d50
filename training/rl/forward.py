"""Makes the trainer's forward pass compute each distinct row and image once, and short rows at their own width.

The rollouts of a group show the same image, at one resolution or two, and stock transformers encodes it for each of
them. Late in training, most rollouts of a group have the same tokens. A rollout that zooms is three times as long as
one that does not, and TRL pads the short ones to its length. The pass is still TRL's, and so are the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from trl import GRPOTrainer

from vtagent.errors import ModelError
from vtagent.models.families import family_of
from vtagent.models.local.ops import ATTENTION, PatchProjection

EXACT = 1e-4
"""Maximum difference between sampled log-probabilities and the trainer's own, in float32."""


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


@dataclass(frozen=True)
class Images:
    """The images of a batch of rows, as TRL passes them."""

    pixel_values: torch.Tensor
    """(patches of all images, patch_dim), floating point."""
    grid: torch.Tensor
    """(images, 3) int64: frames, rows and columns of patches."""
    counts: list[int]
    """Images of each row."""

    def per_row(self) -> list[tuple[int, ...]]:
        """For each row, which of the batch's distinct images it shows."""
        _, places = distinct(self.pixel_values, self.grid)
        ends = list(accumulate(self.counts))
        return [tuple(places[end - count : end]) for end, count in zip(ends, self.counts, strict=True)]

    def of(self, rows: list[int]) -> dict[str, Any]:
        """TRL's arguments for some rows.

        Returns:
            `pixel_values` (patches of these images, patch_dim), `image_grid_thw` (images, 3) int64 and `num_images` (a
            list); empty if these rows have no images.
        """
        starts = [end - count for end, count in zip(accumulate(self.counts), self.counts, strict=True)]
        chosen = [starts[row] + number for row in rows for number in range(self.counts[row])]
        if not chosen:
            return {}
        patches = torch.split(self.pixel_values, self.grid.prod(-1).tolist())
        return {
            "pixel_values": torch.cat([patches[image] for image in chosen]),
            "image_grid_thw": self.grid[chosen],
            "num_images": [self.counts[row] for row in rows],
        }


class DistinctRows(GRPOTrainer):  # type: ignore[misc]
    """A GRPO trainer that scores each distinct row once."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        num_images: list[int] | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Score rows; the signature is TRL's.

        Args:
            model: The model to score with.
            input_ids: (rows, tokens) int64: prompts, padded on the left, and completions, padded on the right.
            attention_mask: (rows, tokens) int64: 1 on tokens that are not padding.
            logits_to_keep: Tokens of the completions, with their padding.
            batch_size: Maximum rows of one pass; all if absent.
            compute_entropy: Whether entropies are wanted.
            pixel_values: (patches of all images, patch_dim), floating point.
            image_grid_thw: (images, 3) int64.
            num_images: Images of each row.
            mm_token_type_ids: (rows, tokens) int64: 1 on image placeholders.
            **others: Passed on to TRL.

        Returns:
            Log-probabilities (rows, logits_to_keep) float32; entropies, of the same shape and dtype, or None; and TRL's
            auxiliary loss of the last pass, () or None.
        """
        score = super()._get_per_token_logps_and_entropies
        several = self.accelerator.num_processes > 1
        images = None
        if pixel_values is not None and image_grid_thw is not None and num_images is not None:
            images = Images(pixel_values, image_grid_thw, num_images)
        nothing: tuple[int, ...] = ()
        shown = images.per_row() if images else [nothing] * len(input_ids)
        if several and batch_size is not None:  # sharded weights are gathered in every pass, so all need equally many
            first = inverse = list(range(len(input_ids)))
        else:
            first, inverse = _distinct_rows(input_ids, attention_mask, shown)
        # DistributedDataParallel requires one forward pass per backward pass.
        parts = [first] if several else _by_width(first, attention_mask)
        order: list[int] = []
        logps: list[torch.Tensor] = []
        entropies: list[torch.Tensor] = []
        for rows in parts:
            left, right = _margins(attention_mask[rows])
            window = slice(left, input_ids.shape[1] - right)
            types = {} if mm_token_type_ids is None else {"mm_token_type_ids": mm_token_type_ids[rows, window]}
            own, entropy, aux = score(
                model,
                input_ids[rows, window],
                attention_mask[rows, window],
                logits_to_keep - right,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                **(images.of(rows) if images else {}),
                **types,
                **others,
            )
            order += rows
            logps.append(torch.nn.functional.pad(own, (0, right)))
            if entropy is not None:
                entropies.append(torch.nn.functional.pad(entropy, (0, right)))
        place = {row: number for number, row in enumerate(order)}
        back = torch.tensor([place[first[number]] for number in inverse], device=input_ids.device)
        return torch.cat(logps)[back], torch.cat(entropies)[back] if entropies else None, aux

    @torch.no_grad()
    def largest_gap(self, batch: dict[str, Any], sampled: Sequence[Sequence[int]]) -> float:
        """The largest difference between the trainer's log-probabilities of sampled tokens and the sampled ones.

        Args:
            batch: What `_generate_and_score_completions` returns, before any update of the weights. Its
                `sampling_per_token_logps` are (rows, completion tokens) float32.
            sampled: For each row, 1 on the tokens of its completion that were sampled, including those that are not
                trained on.

        Raises:
            ModelError: The difference is more than `EXACT`.
        """
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        size, kept = self.args.per_device_train_batch_size, batch["completion_ids"].shape[1]
        images: dict[str, Any] = {name: batch.get(name) for name in names}
        own, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, kept, size, **images)
        compared = torch.zeros_like(own, dtype=torch.bool)
        for row, mask_of_row in zip(compared, sampled, strict=True):
            row[: len(mask_of_row)] = torch.tensor(mask_of_row)
        gap = (own - batch["sampling_per_token_logps"]).abs()[compared]
        largest = float(gap.max()) if len(gap) else 0.0
        if not largest <= EXACT:
            raise ModelError(
                f"a sampled token's log-probability is {largest:.2g} away from the trainer's own; more than {EXACT:g} "
                "means that the trainer scores other tokens, images or weights than were sampled"
            )
        return largest


def _distinct_rows(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, shown: list[tuple[int, ...]]
) -> tuple[list[int], list[int]]:
    """Find the distinct rows of a batch.

    Args:
        input_ids: (rows, tokens) int64.
        attention_mask: (rows, tokens) int64.
        shown: For each row, which of the batch's distinct images it shows.

    Returns:
        Indices of the distinct rows (the first of equal ones), and for each row, which of these it equals.
    """
    first: list[int] = []
    known: dict[Any, int] = {}
    inverse: list[int] = []
    columns = zip(input_ids.tolist(), attention_mask.tolist(), shown, strict=True)
    for row, (ids, mask, images) in enumerate(columns):
        key = (tuple(ids), tuple(mask), images)
        if key not in known:
            known[key] = len(first)
            first.append(row)
        inverse.append(known[key])
    return first, inverse


def _by_width(rows: list[int], attention_mask: torch.Tensor) -> list[list[int]]:
    """Split rows into a narrow and a wide part where that saves a quarter of the work, else keep one part.

    Args:
        rows: Indices of the rows.
        attention_mask: (all rows, tokens) int64.
    """
    widths = attention_mask[rows].sum(1).tolist()
    order = [row for _, row in sorted(zip(widths, rows, strict=True))]
    widths.sort()
    whole = widths[-1] * len(rows)
    area, cut = min((widths[cut - 1] * cut + widths[-1] * (len(rows) - cut), cut) for cut in range(1, len(rows) + 1))
    return [order[:cut], order[cut:]] if area < 0.75 * whole else [order]


def _margins(attention_mask: torch.Tensor) -> tuple[int, int]:
    """Columns on the left and on the right that are padding in every row.

    Args:
        attention_mask: (rows, tokens) int64.
    """
    used = attention_mask.any(0).nonzero()[:, 0]
    return int(used[0]), attention_mask.shape[1] - 1 - int(used[-1])
