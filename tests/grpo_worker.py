"""One process of a training run, started by tests/test_grpo_processes.py: trains, and writes down what came of it."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)

from tests.grpo_runs import logged, parameters, trainer  # noqa: E402
from vtagent.training.data import RenderedPages  # noqa: E402


def main(folder: Path, rows: int) -> None:
    """Two steps of a group of eight, `rows` of them on this process; in the first its second half never zooms.

    Two of three pages have no right answer, so groups of them are replaced.
    """
    right, *others = RenderedPages(3, seed=3)
    run = trainer(
        folder,
        examples=[right, *(replace(page, answers=("not on the page",)) for page in others)],
        max_steps=2,
        num_generations=8,
        per_device_train_batch_size=rows,
        refill_rounds=8,
        penalty="off",
        check_exactness=True,
    )
    make = run.collector._engine
    first = run.accelerator.process_index * rows
    made = 0

    def engine(job: Any) -> Any:
        nonlocal made
        own = make(job)
        place, made = first + made % rows, made + 1
        if run.state.global_step == 0 and place >= 4:
            own._banned |= {run.processing_class.tokenizer.convert_tokens_to_ids("<tool_call>")}
        return own

    run.collector._engine = engine  # type: ignore[method-assign]
    run.train()
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        lines = [read(folder / "rollouts", step) for step in (1, 2)]
        torch.save(
            {
                "advantages": [[line["advantage"] for line in step] for step in lines],
                "rewards": [[line["reward"] for line in step] for step in lines],
                "zooms": [[line["zooms"] for line in step] for step in lines],
                "refilled": logged(run, "groups/refilled"),
                "parameters": parameters(run),
            },
            folder / "result.pt",
        )


def read(folder: Path, step: int) -> list[dict[str, Any]]:
    """The rollouts of all processes, in the order of ranks."""
    paths = [folder / f"step-{step:06d}.jsonl", folder / f"step-{step:06d}.1.jsonl"]
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
