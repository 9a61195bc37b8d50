"""Measures rollouts for GRPO: runs of the compiled graph against TRL's own tool loop, on one policy and the same pages.

    python -m benchmarks.rollout_throughput [--prompts 8] [--generations 8] [--repeats 3]

Each side is a trainer with its own copy of the weights, and makes one batch of rollouts: from the rows of the data set
to the token ids, masks and images that the loss needs. The sides take turns, see the same pages and prompts, sample at
temperature 1 with the same limit per reply, and may zoom once. TRL gets rendered low views, and its tool belongs to an
environment (`environment_factory`) that knows the page. The loss is left out, since both sides compute it alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from benchmarks._report import report
from vtagent.images import MemoryImageStore
from vtagent.models.families import checkpoint_path
from vtagent.models.processor import VLProcessor
from vtagent.training.data import Example, RenderedPages
from vtagent.training.rewards import build_grader
from vtagent.training.rl.settings import GraphGRPOConfig
from vtagent.training.rl.trainer import GraphGRPOTrainer
from vtagent.views import View, ViewRenderer

GOAL = 1.5
"""The graph's rollouts must be at least this many times as fast."""

REPLY_TOKENS = 48
"""Most tokens of one reply."""

ROW_TOKENS = 512
"""Most tokens of a row's replies and tool results together, which TRL limits; large enough for every page."""

MASKS = 2
"""Index of the masks (1 for a sampled token, 0 for a token of a tool result) in what TRL's `_generate` returns."""


class _Generated(Exception):
    """Ends a training step as soon as its rollouts are made, and carries them."""


class NativeTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, whose steps end with their rollouts."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        raise _Generated(super()._generate(prompts))


class GraphTrainer(GraphGRPOTrainer):
    """vtagent's trainer, whose steps end with their rollouts."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        raise _Generated(super()._generate(prompts))


class PageEnvironment:
    """TRL's environment of one rollout: the page, and the tool that shows all of it at full resolution."""

    def __init__(self) -> None:
        self._page: Image.Image | None = None

    def reset(self, page: Image.Image, **_: Any) -> None:
        """Starts a rollout with `page`, rendered at full resolution."""
        self._page = page

    def zoom_image(self, region: list[int] | None = None, image: int = 1) -> list[dict[str, Any]]:
        """Look at the image again at full resolution.

        Args:
            region: The part to look at; the policy asks for all of it.
            image: Which image, counted from 1.

        Returns:
            The image.
        """
        return [{"type": "image", "image": self._page}]


def policy() -> tuple[Any, VLProcessor]:
    """Loads the bundled policy `base` in float32, which zooms on about half of the pages, and its processor."""
    path = checkpoint_path("base")
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    return model, VLProcessor.from_pretrained(path)


def settings(kind: type[Any], folder: Path, *, generations: int, rows: int, tokens: int, **own: Any) -> Any:
    """Returns the configuration of a trainer.

    Args:
        kind: Class of the configuration.
        folder: Output folder.
        generations: Rollouts of each prompt.
        rows: Rows of the batch.
        tokens: Most tokens of a completion, as the trainer counts them.
        **own: Settings of this trainer alone.
    """
    return kind(
        str(folder),
        max_steps=1,
        num_generations=generations,
        per_device_train_batch_size=rows,
        max_completion_length=tokens,
        temperature=1.0,
        beta=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **own,
    )


def native(pages: Sequence[Example], generations: int, folder: Path) -> Callable[[], tuple[Any, ...]]:
    """Returns a function that makes one batch of rollouts by TRL's tool loop."""
    model, processor = policy()
    processor.tokenizer.padding_side = "left"
    processor.tokenizer.response_template = qwen3_template
    store = MemoryImageStore()
    renderer = ViewRenderer(store, processor.vision)
    rows = []
    for page in pages:
        ref = store.put(page.image)
        low, full = (renderer.render(View(ref, scale)) for scale in (0.5, 1.0))
        asked = [{"type": "image", "image": low}, {"type": "text", "text": page.question}]
        rows += [{"prompt": [{"role": "user", "content": asked}], "page": full}] * generations
    args = settings(
        GRPOConfig,
        folder,
        generations=generations,
        rows=len(rows),
        tokens=ROW_TOKENS,
        max_tool_calling_iterations=1,
    )
    trainer = NativeTrainer(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * len(rows)}),
        processing_class=processor,
        environment_factory=PageEnvironment,
    )
    trainer.generation_config.max_new_tokens = REPLY_TOKENS
    return lambda: _generate(trainer, rows)


def graph(pages: Sequence[Example], generations: int, folder: Path) -> Callable[[], tuple[Any, ...]]:
    """Returns a function that makes one batch of rollouts by runs of the graph."""
    model, processor = policy()
    rows = [{"prompt": "", "example": number} for number in range(len(pages)) for _ in range(generations)]
    args = settings(
        GraphGRPOConfig,
        folder,
        generations=generations,
        rows=len(rows),
        tokens=REPLY_TOKENS,
        log_rollouts=False,
    )
    trainer = GraphTrainer(model, args, pages, processor, build_grader("exact"))
    return lambda: _generate(trainer, rows)


def _generate(trainer: GRPOTrainer, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Makes the rollouts of `rows`, and returns what the trainer's `_generate` returns."""
    trainer.model.train()
    try:
        trainer._generate_and_score_completions([dict(row) for row in rows])
    except _Generated as step:
        (batch,) = step.args
        return tuple(batch)
    raise AssertionError("the step made no rollouts")


def compare(prompts: int, generations: int, repeats: int) -> tuple[list[dict[str, Any]], float]:
    """Measures both sides in turns.

    Args:
        prompts: Number of pages, with one prompt each.
        generations: Rollouts of each prompt.
        repeats: Number of measured batches of each side; one more warms up.

    Returns:
        (rows of the report with medians over the repeats, how many times as fast the graph's rollouts are).
    """
    pages = list(RenderedPages(prompts, seed=20))
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "TRL's tool loop": native(pages, generations, Path(folder) / "native"),
            "runs of the graph": graph(pages, generations, Path(folder) / "graph"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        batches: dict[str, list[tuple[Any, ...]]] = {name: [] for name in sides}
        for repeat in range(repeats + 1):
            for name, generate in sides.items():
                start = time.perf_counter()
                batch = generate()
                if repeat:  # the first batch warms up
                    seconds[name].append(time.perf_counter() - start)
                    batches[name].append(batch)
    count = prompts * generations
    table: list[dict[str, Any]] = []
    for name in sides:
        sampled = [sum(sum(mask) for mask in batch[MASKS]) for batch in batches[name]]
        zoomed = [sum(0 in mask for mask in batch[MASKS]) for batch in batches[name]]
        table.append(
            {
                "rollouts by": name,
                "seconds": statistics.median(seconds[name]),
                "rollouts per second": count / statistics.median(seconds[name]),
                "sampled tokens per rollout": statistics.mean(sampled) / count,
                "share that zooms": statistics.mean(zoomed) / count,
            }
        )
    return table, table[0]["seconds"] / table[1]["seconds"]


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help="pages; default: %(default)s")
    parser.add_argument("--generations", type=int, default=8, help="rollouts of each prompt; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="measured batches of each side; default: %(default)s")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    table, ratio = compare(options.prompts, options.generations, options.repeats)
    report(
        "rollout_throughput",
        table,
        note=f"{options.prompts} prompts with {options.generations} rollouts each of the bundled base policy, medians "
        f"of {options.repeats}: runs of the graph are {ratio:.1f} times as fast as TRL's own tool loop (goal: at least "
        f"{GOAL:g}). Their time includes rendering views, grading, and sampled log-probabilities.",
    )


if __name__ == "__main__":
    main()
