"""Two processes train as one does: where a group straddles them, where it is replaced, where only one of them zooms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vtagent.training import grpo

ROOT = Path(__file__).parents[1]


def result(folder: Path, *, processes: int) -> Any:
    """What two steps of one group of eight came to, its rows spread over the processes."""
    documented = next(line.split() for line in str(grpo.__doc__).splitlines() if "accelerate launch" in line)
    launch = ["-m", "accelerate.commands.launch", *documented[2 : documented.index("-m")]]  # two processes
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "tests.grpo_worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [*command, str(8 // processes)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.timeout(900)
def test_two_processes_give_the_parameters_of_one(tmp_path: Path) -> None:
    one, two = result(tmp_path / "one", processes=1), result(tmp_path / "two", processes=2)
    assert one["advantages"] == two["advantages"]
    assert one["rewards"] == two["rewards"]
    assert one["refilled"] == two["refilled"]
    assert sum(two["refilled"]) >= 1, "a group without a right answer should have been replaced"
    assert [len(rows) for rows in two["zooms"]] == [8, 8]
    uneven = [rows for rows in two["zooms"] if any(rows[:4]) != any(rows[4:])]
    assert uneven, "in one of the steps only one process should zoom"
    for name, value in one["parameters"].items():
        difference = (two["parameters"][name] - value).abs()
        # Adam divides by the gradient's size, so a weight whose gradient is near 0 may differ by a part of its step.
        assert (difference > 1e-5).float().mean() < 1e-4, name
        assert difference.max() < 5e-5, name
