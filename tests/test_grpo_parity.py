"""The same weights, greedy: a rollout over the graph has the ids and masks of TRL's own tool loop."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from tests.grpo_runs import KNOWN_WARNINGS, base, settings
from vtagent.graphs.zoom import ZoomContext
from vtagent.models.chat import ChatVLM
from vtagent.models.codec import Codec, never_sampled
from vtagent.models.local.engine import TransformersEngine
from vtagent.protocol import parse_reply
from vtagent.training.data import Example, RenderedPages
from vtagent.training.rl.collect import Collector, Job
from vtagent.training.rl.samples import SampleMaker

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


class Native:
    """TRL's tool loop, given a `zoom_image` that shows the page in full."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, processor = base("zoom")
        processor.tokenizer.padding_side = "left"
        processor.tokenizer.response_template = "ours"  # TRL knows no parser for this template: it is given one
        monkeypatch.setattr(grpo_trainer, "parse_response", self._parsed)
        self._codec = Codec(processor.tokenizer, processor.chat_template)
        self._page: Any = None
        self._trainer = GRPOTrainer(
            model=model,
            reward_funcs=[lambda **_: []],
            args=settings(folder, max_completion_length=400),
            train_dataset=Dataset.from_dict({"prompt": ["?"] * 8}),
            processing_class=processor,
            tools=[self.zoom_image],
        )
        self._trainer.generation_config.do_sample = False

    def zoom_image(self) -> list[dict[str, Any]]:
        """Show the page in full."""
        return [{"type": "image", "image": self._page}]

    def rolled_out(self, example: Example, low: Image.Image, full: Image.Image) -> tuple[Any, Any, Any]:
        """Prompt ids, completion ids and mask of one rollout."""
        self._page = full
        content = [{"type": "image", "image": low}, {"type": "text", "text": example.question}]
        self._trainer._sync_tool_dicts = [{"zoom_image": self.zoom_image}]
        self._trainer._async_tool_dicts = [{}]
        self._trainer.model.train()
        prompt_ids, completion_ids, mask, *_ = self._trainer._generate([[{"role": "user", "content": content}]])
        return prompt_ids[0], completion_ids[0], mask[0]

    def _parsed(self, tokenizer: Any, ids: Any, **_: Any) -> dict[str, Any]:
        reply = parse_reply(self._codec.decode(list(ids)))
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
        return {"role": "assistant", "content": reply.content, **({"tool_calls": calls} if calls else {})}


def test_ids_and_masks_are_those_of_trls_own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = list(RenderedPages(8, seed=11))
    model, processor = base("zoom")  # it zooms on small print and not on large
    chat = ChatVLM(engine=TransformersEngine(model.eval(), processor), processor=processor, max_tokens=64)
    collector = Collector(chat, context=ZoomContext())
    rollouts = collector.collect([Job(example, 0) for example in examples])
    collector.close()
    assert {rollout.zooms for rollout in rollouts} == {0, 1}  # both ways are compared
    image_token = processor.image_token_id
    maker = SampleMaker(
        processor.vision, image_token, never_sampled(processor.tokenizer), processor.tokenizer.eos_token_id
    )
    native = Native(tmp_path, monkeypatch)
    for example, rollout in zip(examples, rollouts, strict=True):
        row = maker.sample(rollout)
        low, full = rollout.turns[0].images[0].pixels, Image.open(io.BytesIO(example.image)).convert("RGB")
        theirs = native.rolled_out(example, low, full)
        assert (row.prompt_ids, row.completion_ids, row.tool_mask) == tuple(map(list, theirs))
