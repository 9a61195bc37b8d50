"""A rollout as a row of the trainer: what the model was shown and said, which tokens are its own, and the images.

    prompt_ids      | low view …  question |
    completion_ids                         | reply | template's words, full view … | reply |
    tool_mask                              | 1 1 1 | 0 0 0 0 0 0 0 0 0 0 0 0 0 0 | 1 1 1 |

Nothing is tokenised here: ids are those that the engine was given and sampled, image placeholders expanded. The token
that ends a reply was sampled, so it is the model's; the line break that the template puts after it is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from PIL import Image

from vtagent.errors import ModelError
from vtagent.models.placeholders import expand, image_spans, image_tokens
from vtagent.training.rl.rollout import Rollout
from vtagent.visual_tokens import VisionSpec


@dataclass(frozen=True)
class TrainingSample:
    """What the trainer computes with; all lists but the first and the last are of one length."""

    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int]
    """1 on tokens that are learned from: the sampled ones, or none at all in a row that teaches nothing."""
    logprobs: list[float]
    """Of the sampled tokens; 0 on the others."""
    images: list[Image.Image]
    """All that prompt and completion show, in their order."""

    def without_lesson(self) -> TrainingSample:
        """The row with its loss masked and its attention whole.

        Masking attention over a row that shows images would take their positions from the rows after it.
        """
        return replace(self, tool_mask=[0] * len(self.tool_mask))


@dataclass(frozen=True)
class SampleMaker:
    """Makes the rows of one model family's rollouts."""

    vision: VisionSpec
    image_token_id: int
    never_sampled: Collection[int]
    """Tokens that stand for pixels: one of them among the sampled would be taken for an image that is not there."""
    end_id: int
    """A token that rows without content are made of."""

    def row(self, rollout: Rollout) -> TrainingSample:
        """The row of a run that did not fail.

        Raises:
            ModelError: the record cannot be right; training on it would corrupt the rows beside it.
        """
        first, *later = rollout.turns
        completion, mask, logprobs = [], [], []
        for number, turn in enumerate(rollout.turns):
            if not turn.completion_ids or len(turn.completion_ids) != len(turn.logprobs):
                counts = f"{len(turn.completion_ids)} tokens and {len(turn.logprobs)} log-probabilities"
                raise ModelError(f"reply {number + 1} has {counts}")
            if sampled := set(turn.completion_ids) & set(self.never_sampled):
                raise ModelError(f"reply {number + 1} holds sampled image tokens ({sorted(sampled)}): ban them")
            if number:
                before = len(rollout.turns[number - 1].images)
                suffix = expand(turn.prompt_ids, turn.images[before:], self.vision, self.image_token_id)
                completion += suffix
                mask += [0] * len(suffix)
                logprobs += [0.0] * len(suffix)
            completion += turn.completion_ids
            mask += [1] * len(turn.completion_ids)
            logprobs += turn.logprobs
        prompt = expand(first.prompt_ids, first.images, self.vision, self.image_token_id)
        images = (later[-1] if later else first).images
        row = TrainingSample(prompt, completion, mask, logprobs, [image.pixels for image in images])
        self._check(row, [image_tokens(image, self.vision) for image in images])
        return row

    def empty(self) -> TrainingSample:
        """The shortest row that is valid, in the place of a run that failed.

        It shows one image, the smallest there is: rows are scored a few at a time, and a batch or a process without any
        image would skip the vision tower, which TRL and sharded weights do not bear.
        """
        image = Image.new("RGB", self.vision.fit(self.vision.factor, self.vision.factor))
        tokens = self.vision.tokens(*image.size)
        return TrainingSample([*[self.image_token_id] * tokens, self.end_id], [self.end_id], [0], [0.0], [image])

    def _check(self, row: TrainingSample, tokens: list[int]) -> None:
        """Every run of placeholders is as long as its image has visual tokens."""
        ids = row.prompt_ids + row.completion_ids
        runs = [end - start for start, end in image_spans(ids, self.image_token_id)]
        if runs != tokens:
            raise ModelError(f"the row shows images of {runs} tokens, but its images have {tokens}")
