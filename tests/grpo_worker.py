"""One process of a training run, started by tests/test_grpo_processes.py: trains, and writes down what came of it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)

from tests.grpo_runs import parameters, trainer  # noqa: E402
from vtagent.training.data import RenderedPages  # noqa: E402


def main(folder: Path, rows: int) -> None:
    """Two steps of a group of eight, `rows` of them on this process; in the first its second half never zooms."""
    run = trainer(
        folder,
        examples=RenderedPages(4, seed=3),
        max_steps=2,
        num_generations=8,
        per_device_train_batch_size=rows,
        check_exactness=True,
    )
    tap = run.collector._invoke
    made = 0

    async def invoke(job: Any, own: Any) -> Any:
        nonlocal made
        made += 1
        if made <= rows and (run.accelerator.process_index or made > 4):
            own._banned |= {run.processing_class.tokenizer.convert_tokens_to_ids("<tool_call>")}
        return await tap(job, own)

    run.collector._invoke = invoke  # type: ignore[method-assign, assignment]
    run.train()
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        lines = [read(folder / "rollouts", step) for step in (1, 2)]
        torch.save(
            {
                "advantages": [[line["advantage"] for line in step] for step in lines],
                "zooms": [[line["zooms"] for line in step] for step in lines],
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
