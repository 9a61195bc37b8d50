"""Tokens are trained on as they were sampled: the trainer's log-probabilities are the engine's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from tests.checkpoints import make_model, make_processor
from tests.fakes import ScriptedEngine
from tests.grpo_runs import KNOWN_WARNINGS, generation, logged, parameters, settings, trainer
from tests.rescoring import rescored
from tests.scripted_chat import ZOOM
from vtagent.errors import ModelError
from vtagent.models.engine import Generation, Request
from vtagent.models.families import tool_template
from vtagent.models.processor import VLProcessor
from vtagent.training.data import RenderedPages
from vtagent.training.rl import trainer as training
from vtagent.training.rl.forward import Images, distinct
from vtagent.training.rl.trainer import GraphGRPOTrainer

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_sampled_token_scores_as_it_was_sampled(tmp_path: Path, temperature: float) -> None:
    run = trainer(tmp_path, check_exactness=True, temperature=temperature, max_steps=2)
    run.train()
    assert all(0 < share < 1 for share in logged(run, "zoom/all"))  # rows with one image, and rows with two
    assert max(logged(run, "exactness/largest_gap")) < 1e-4
    assert len(logged(run, "exactness/largest_gap")) == 2  # the second of them after the weights have changed


class Scripted(ScriptedEngine):
    """Zooms in every other run and says how many views it saw, as likely as one pass of the stock model finds it."""

    def __init__(self, model: Any, processor: VLProcessor) -> None:
        super().__init__(processor, self._say)
        self.model = model
        self._runs = 0

    def forget(self) -> None:
        """There is nothing to forget."""

    def _say(self, request: Request, prompt: str) -> str:
        views = len(request.images)
        self._runs += views == 1
        if views == 1 and self._runs % 2:
            return ZOOM
        return f"<think>I can read it.</think><answer>{views}</answer>"

    def _reply(self, request: Request) -> Generation:
        said = super()._reply(request)
        engine: Any = self
        logprobs = rescored(engine, request.token_ids, said.token_ids, request.images, temperature=1.0)
        return replace(said, logprobs=tuple(logprobs))


class TwoViews:
    """Finds right what was said after two views."""

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        return prediction == "2"


def test_the_other_family_with_its_windowed_tower_scores_rows_of_one_image_and_of_two_as_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = make_processor("qwen2_5_vl", chat_template=tool_template())
    model = make_model("qwen2_5_vl", processor)
    monkeypatch.setattr(training, "TransformersEngine", Scripted)
    args = settings(tmp_path, check_exactness=True, max_completion_length=128)
    run = GraphGRPOTrainer(model, args, RenderedPages(16, seed=3), processor, TwoViews())
    before = parameters(run)
    run.train()
    assert logged(run, "zoom/all") == logged(run, "accuracy/all") == [0.5]
    assert logged(run, "rollouts/failed") == logged(run, "rollouts/truncated") == [0]
    assert 0 < max(logged(run, "exactness/largest_gap")) < 1e-4
    assert {name for name, value in parameters(run).items() if not value.equal(before[name])}


@pytest.mark.parametrize("longest", [48, 4])  # with 4 every reply is over-long, and no row is learned from
def test_samples_of_old_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    run = trainer(tmp_path, check_exactness=True, max_completion_length=longest)
    batch = generation(run)
    assert bool((batch["completion_mask"] * batch["tool_mask"]).any()) == (longest == 48)
    monkeypatch.setattr(run.engine, "forget", lambda: None)  # what was computed with the weights before is used again
    with torch.no_grad():
        for weight in run.model.parameters():
            weight.mul_(1.02)
    with pytest.raises(ModelError, match="away from the trainer's own"):
        generation(run)


def test_computing_equal_rows_and_images_once_changes_no_number(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    batch = generation(run)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    kept = batch["completion_ids"].shape[1]
    images = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    seen: list[int] = []
    run.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
    )

    def gradients(scored: tuple[torch.Tensor, torch.Tensor | None, object]) -> tuple[torch.Tensor, ...]:
        logps, entropy, _ = scored
        assert entropy is not None
        run.model.zero_grad()
        loss = (logps * batch["completion_mask"] * torch.arange(len(logps))[:, None]).sum()
        loss.backward()
        vision = run.model.model.visual.blocks[0].mlp.linear_fc1.weight.grad
        text = run.model.model.language_model.layers[0].mlp.up_proj.weight.grad
        return logps.detach(), entropy.detach() * batch["completion_mask"], vision.clone(), text.clone()

    arguments: dict[str, Any] = {"compute_entropy": True, **images}
    ours = gradients(run._get_per_token_logps_and_entropies(run.model, ids, mask, kept, **arguments))
    rows, seen[:] = sum(seen), []
    stock = gradients(GRPOTrainer._get_per_token_logps_and_entropies(run, run.model, ids, mask, kept, **arguments))
    assert rows < sum(seen) == len(ids)
    for one, other in zip(ours, stock, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_several_processes_make_equally_many_passes_whatever_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)
    batch: dict[str, Any] = generation(run)
    same = [0] * 8  # one process's rows may all be the same, where another's are not
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[same]
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[same]
    images = Images(batch["pixel_values"], batch["image_grid_thw"], batch["num_images"]).of(same)
    images["mm_token_type_ids"] = batch["mm_token_type_ids"][same]
    kept = batch["completion_ids"].shape[1]
    passes: list[int] = []
    run.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["inputs_embeds"].shape[0]), with_kwargs=True
    )

    def scored(batch_size: int | None) -> torch.Tensor:
        passes.clear()
        with torch.no_grad():
            return run._get_per_token_logps_and_entropies(run.model, ids, mask, kept, batch_size, **images)[0]

    alone = scored(2)
    assert passes == [1]
    monkeypatch.setattr(type(run.accelerator), "num_processes", 2)
    together = scored(2)
    assert passes == [2, 2, 2, 2]
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    scored(None)  # the loss: one pass anyway
    assert passes == [1]


def test_equal_images_are_found_and_different_ones_kept_apart() -> None:
    grid = torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 2], [1, 2, 2]])
    one, other = torch.rand(4, 3), torch.rand(4, 3)
    pixels = torch.cat([one, torch.rand(8, 3), other, one])
    first, places = distinct(pixels, grid)
    assert [first[place] for place in places] == [0, 1, 2, 0]


def test_a_batch_in_which_nobody_zooms_still_sees_its_images(tmp_path: Path) -> None:
    run = trainer(tmp_path, check_exactness=True, task="general")
    batch = generation(run)
    assert batch["image_grid_thw"].shape[0] == len(batch["prompt_ids"])  # one page each, at full resolution
    assert batch["tool_mask"][batch["completion_mask"].bool()].all()


def test_images_that_trl_drops_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    stock = GRPOTrainer._generate_and_score_completions

    def dropping(*args: Any) -> Any:
        return {name: value for name, value in stock(*args).items() if name != "pixel_values"}

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", dropping)
    with pytest.raises(ModelError, match="dropped the images"):
        generation(run)


def test_rows_of_no_image_of_one_and_of_several_are_trained_on_together(tmp_path: Path) -> None:
    pages = list(RenderedPages(4, seed=3))
    examples = [
        replace(pages[0], image=b""),
        replace(pages[1], more_images=(pages[2].image, pages[3].image)),
        pages[0],
        replace(pages[2], image=b""),
    ]
    run = trainer(tmp_path, examples=examples, check_exactness=True, max_steps=2, shuffle_dataset=False)
    before = parameters(run)
    run.train()
    assert logged(run, "rollouts/failed") == [0, 0]
    assert all(0 < gap < 1e-4 for gap in logged(run, "exactness/largest_gap"))
    assert {name for name, value in parameters(run).items() if not value.equal(before[name])}
