"""Rollouts for GRPO: runs of the compiled graph against TRL's own tool loop, on one policy, page by page the same.

    python -m benchmarks.rollout_throughput [--prompts 8] [--generations 8] [--repeats 3]

Both sides are trainers on weights of their own, asked for one generation: everything from the rows of the data set to
the token ids, masks and images that a loss is computed of. They take turns, see the same pages in the same prompts,
sample at temperature 1 with one limit a reply, and may zoom once. TRL gets its low views ready-made, and its tool
belongs to an environment (`environment_factory`), which knows the page. Left out: losses, which are computed alike.
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
"""The graph's rollouts must be at least so many times as fast."""

REPLY_TOKENS = 48
ROW_TOKENS = 512
"""TRL bounds a row's replies and tool results together; long enough that no page is left out."""


class _Generated(Exception):
    """Ends a step once its rollouts are there."""


class Native(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer; a step ends with its rollouts."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        raise _Generated(super()._generate(prompts))


class Graph(GraphGRPOTrainer):
    """Ours; a step ends with its rollouts."""

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        raise _Generated(super()._generate(prompts))


class Page:
    """TRL's environment of one rollout: the page, and the tool that shows all of it."""

    def __init__(self) -> None:
        self._page: Image.Image | None = None

    def reset(self, page: Image.Image, **_: Any) -> None:
        """Another page."""
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
    """The bundled base policy in fp32, which zooms on about half of what it sees, and its processor."""
    path = checkpoint_path("base")
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    return model, VLProcessor.from_pretrained(path)


def settings(kind: type[Any], folder: Path, *, generations: int, rows: int, tokens: int, **own: Any) -> Any:
    """What both trainers are told."""
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
    """One generation by TRL's loop."""
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
    trainer = Native(
        model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * len(rows)}),
        processing_class=processor,
        environment_factory=Page,
    )
    trainer.generation_config.max_new_tokens = REPLY_TOKENS
    return lambda: _generated(trainer, rows)


def graph(pages: Sequence[Example], generations: int, folder: Path) -> Callable[[], tuple[Any, ...]]:
    """One generation by runs of the graph."""
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
    trainer = Graph(model, args, pages, processor, build_grader("exact"))
    return lambda: _generated(trainer, rows)


def _generated(trainer: GRPOTrainer, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    trainer.model.train()
    try:
        trainer._generate_and_score_completions([dict(row) for row in rows])
    except _Generated as step:
        (made,) = step.args
        return tuple(made)
    raise AssertionError("the step made no rollouts")


def compare(prompts: int, generations: int, repeats: int) -> tuple[list[dict[str, Any]], float]:
    """The report's rows, medians over the repeats, and how many times as fast the graph's rollouts are."""
    pages = list(RenderedPages(prompts, seed=20))
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "TRL's tool loop": native(pages, generations, Path(folder) / "native"),
            "runs of the graph": graph(pages, generations, Path(folder) / "graph"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        made: dict[str, list[tuple[Any, ...]]] = {name: [] for name in sides}
        for repeat in range(repeats + 1):
            for name, generate in sides.items():
                start = time.perf_counter()
                rows = generate()
                if repeat:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
                    made[name].append(rows)
    count = prompts * generations
    table: list[dict[str, Any]] = []
    for name in sides:
        sampled = [sum(sum(mask) for mask in rows[2]) for rows in made[name]]
        zoomed = [sum(0 in mask for mask in rows[2]) for rows in made[name]]
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
    """Measure, and write the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--generations", type=int, default=8, help="rollouts of each prompt")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    table, ratio = compare(options.prompts, options.generations, options.repeats)
    report(
        "rollout_throughput",
        table,
        note=f"{options.prompts} prompts with {options.generations} rollouts each of the bundled base policy, medians "
        f"of {options.repeats}: runs of the graph are {ratio:.1f} times as fast as TRL's own tool loop (asked: "
        f"{GOAL:g}). Ours include rendering the views, grading, and the sampled log-probabilities.",
    )


if __name__ == "__main__":
    main()
