"""Makes training samples of rollouts: what the model was shown and said, which tokens are its own, and the images.

    prompt_ids      | low view …  question |
    completion_ids                         | reply | text of the template, full view … | reply |
    tool_mask                              | 1 1 1 | 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0  | 1 1 1 |

Nothing is tokenised here. The ids are those that the engine was given and those that it sampled, with one placeholder
per visual token. The token that ends a reply was sampled, so it counts as the model's; the line break that the template
puts after it does not.
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
    """One row for the trainer. `completion_ids`, `tool_mask` and `logprobs` have the same length."""

    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int]
    """1 on tokens that the loss counts: the sampled ones, or none in a sample that teaches nothing."""
    logprobs: list[float]
    """Of the sampled tokens; 0 on the others."""
    images: list[Image.Image]
    """All images of prompt and completion, in the order of their placeholders."""

    def without_lesson(self) -> TrainingSample:
        """The sample with no token in the loss. Its attention stays whole.

        Masking the attention of a sample that shows images would misplace the images of the samples after it.
        """
        return replace(self, tool_mask=[0] * len(self.tool_mask))


@dataclass(frozen=True)
class SampleMaker:
    """Makes the training samples of one model family."""

    vision: VisionSpec
    image_token_id: int
    never_sampled: Collection[int]
    """Tokens that stand for pixels. A sampled one would be taken for an image that is not there."""
    end_id: int
    """The token that samples without content consist of."""

    def sample(self, rollout: Rollout) -> TrainingSample:
        """The sample of a rollout that did not fail.

        Raises:
            ModelError: Ids, log-probabilities and images do not fit together. Training on such a sample would corrupt
                the other samples of its batch.
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
        tokens = [image_tokens(image, self.vision) for image in images]
        runs = [end - start for start, end in image_spans(prompt + completion, self.image_token_id)]
        if runs != tokens:
            raise ModelError(f"the row shows images of {runs} tokens, but its images have {tokens}")
        return TrainingSample(prompt, completion, mask, logprobs, [image.pixels for image in images])

    def empty(self) -> TrainingSample:
        """The shortest valid sample, in place of a run that failed.

        It shows one image of the smallest size. The model scores a few samples at a time; without an image in a batch,
        the vision tower would be skipped, and neither TRL nor sharded weights allow that.
        """
        image = Image.new("RGB", self.vision.fit(self.vision.factor, self.vision.factor))
        tokens = self.vision.tokens(*image.size)
        return TrainingSample([*[self.image_token_id] * tokens, self.end_id], [self.end_id], [0], [0.0], [image])
