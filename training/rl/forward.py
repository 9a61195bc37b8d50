"""The trainer's forward pass computes each distinct row once, and short rows at their own width.

Once a policy is sure of itself, most rollouts of a group are the same to the token; and a rollout that zooms is three
times as long as one that does not, to which TRL pads it. The numbers that come out are TRL's own, and so is the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from trl import GRPOTrainer

from vtagent.errors import ModelError
from vtagent.training.rl.encode_once import distinct

EXACT = 1e-4
"""Sampled log-probabilities and the trainer's own may differ by so much in fp32."""


@dataclass(frozen=True)
class Images:
    """The images of a batch of rows, as TRL passes them."""

    pixel_values: torch.Tensor
    grid: torch.Tensor
    counts: list[int]
    """How many each row has."""

    def per_row(self) -> list[tuple[int, ...]]:
        """For each row which of the batch's distinct images it shows."""
        _, places = distinct(self.pixel_values, self.grid)
        ends = list(accumulate(self.counts))
        return [tuple(places[end - count : end]) for end, count in zip(ends, self.counts, strict=True)]

    def of(self, rows: list[int]) -> dict[str, Any]:
        """TRL's arguments for these rows alone."""
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
    """How `GraphGRPOTrainer` scores rows."""

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
        score = super()._get_per_token_logps_and_entropies
        several = self.accelerator.num_processes > 1
        images = None
        if pixel_values is not None and image_grid_thw is not None and num_images is not None:
            images = Images(pixel_values, image_grid_thw, num_images)
        nothing: tuple[int, ...] = ()
        shown = images.per_row() if images else [nothing] * len(input_ids)
        if several and batch_size is not None:  # all processes make equally many passes: each gathers what is shared
            first = inverse = list(range(len(input_ids)))
        else:
            first, inverse = _distinct_rows(input_ids, attention_mask, shown)
        # DistributedDataParallel wants one forward pass for each backward pass.
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
        """How far the trainer's log-probabilities of sampled tokens are from those they were sampled with, at most.

        Args:
            batch: What `_generate_and_score_completions` returns, before any update of the weights.
            sampled: For each row 1 on the tokens of its completion that were sampled, also where they teach nothing.

        Raises:
            ModelError: it is more than `EXACT`.
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
    """The first of equal rows, and for each row its place among them."""
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
    """The rows in one part, or in a narrow and a wide one where that saves a quarter of the work."""
    widths = attention_mask[rows].sum(1).tolist()
    order = [row for _, row in sorted(zip(widths, rows, strict=True))]
    widths.sort()
    whole = widths[-1] * len(rows)
    area, cut = min((widths[cut - 1] * cut + widths[-1] * (len(rows) - cut), cut) for cut in range(1, len(rows) + 1))
    return [order[:cut], order[cut:]] if area < 0.75 * whole else [order]


def _margins(attention_mask: torch.Tensor) -> tuple[int, int]:
    """Columns on the left and on the right that no row attends to."""
    used = attention_mask.any(0).nonzero()[:, 0]
    return int(used[0]), attention_mask.shape[1] - 1 - int(used[-1])
