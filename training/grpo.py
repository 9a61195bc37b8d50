"""Teach a policy when a cheap look is enough, by GRPO over the graph that agents run.

    python -m training.grpo --config training/recipes/tiny.yaml
    python -m training.grpo --config training/recipes/tiny.yaml --penalty always --output_dir runs/always
    accelerate launch --multi_gpu --num_processes 2 -m training.grpo --config training/recipes/tiny.yaml

Settings are TRL's (`GRPOConfig`, `ModelConfig`), ours beside them, in a YAML file and on the command line, which has
the last word. `--multi_gpu` is for CPUs too: without, accelerate starts one process where it finds no second GPU.
Interrupted at any moment, the same command goes on from its last checkpoint, as if it had never stopped.
In `output_dir` are left: policy/, runs/ (metrics for TensorBoard), rollouts/ (see `python -m training.rollouts`), and
evaluation/ with the table that is printed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtagent.errors import ModelError, SettingsError, VtagentError
from vtagent.training.measure.journal import write_whole

if TYPE_CHECKING:
    from vtagent.training.rl.settings import GraphGRPOConfig

PROGRAM = "grpo"
RUN = "run.json"
_FREE = {"output_dir", "logging_dir", "report_to", "disable_tqdm", "run_name", "save_total_limit", "logging_steps"} | {
    "log_rollouts",
    "evaluate_documents",
    "concurrency",
    "run_seconds",
    "engine_url",
    "judge_url",
}
"""Settings that may differ when a run is gone on with: parameters do not depend on them."""


@dataclass
class RunArguments:
    """What is trained on, how it is graded, and what is done with the policy."""

    data: str = field(
        default="rendered",
        metadata={
            "help": "rendered, rendered-wide, a .jsonl or .parquet file, a folder, or a data set's id on the hub."
        },
    )
    columns: list[str] = field(
        default_factory=list, metadata={"help": "NAME=COLUMN for image, question, answers, source where they differ."}
    )
    split: str = field(default="train", metadata={"help": "Part of a data set."})
    count: int | None = field(default=None, metadata={"help": "At most so many examples."})
    mix: list[str] = field(
        default_factory=list,
        metadata={"help": "SOURCE=WEIGHT: so many of each source in every stretch of data; *=WEIGHT is all others."},
    )
    grader: str = field(default="exact", metadata={"help": "Steps out of exact, anls, numeric, math, judge, with +."})
    judge_model: str | None = field(default=None, metadata={"help": "The judge's name at its server."})
    judge_url: str | None = field(default=None, metadata={"help": "An OpenAI-compatible server."})
    engine_url: str | None = field(
        default=None, metadata={"help": "Sample from this vLLM server, which takes over the weights before each step."}
    )
    freeze_vision: bool = field(default=False, metadata={"help": "Train the language model alone."})
    half_precision: bool = field(default=False, metadata={"help": "Save the policy in float16."})
    evaluate_documents: int = field(
        default=0, metadata={"help": "Fresh pages of each print size to measure the policy on. 0: no evaluation."}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except VtagentError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from error


def _run(arguments: list[str]) -> None:
    # TRL still calls these by their old names; its users can do nothing about it.
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    from transformers.utils import logging

    from vtagent.training.rl.checkpoints import StopWhenAsked, checkpoints

    logging.disable_progress_bar()  # of weights being read and written

    run, args, model_args = parse(arguments)
    folder = Path(args.output_dir)
    trainer = _trainer(run, args, model_args)
    found = checkpoints(folder)
    if trainer.accelerator.is_main_process:
        remember({**vars(run), **args.to_dict(), **vars(model_args)}, folder, going_on=bool(found))
    stop = StopWhenAsked(trainer.accelerator, args.batches_per_window)
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=str(found[-1][1]) if found else None)
    trainer.collector.close()
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        print(f"stopped at step {trainer.state.global_step}; the same command goes on from here", file=sys.stderr)
        return
    save_policy(trainer, folder / "policy", half=run.half_precision)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        trainer.save_state()
        print(f"wrote {folder / 'policy'}", file=sys.stderr)
        if run.evaluate_documents:
            _evaluate(folder, run.evaluate_documents, args)


def parse(arguments: list[str]) -> tuple[RunArguments, GraphGRPOConfig, Any]:
    """The settings, from a YAML file and the command line.

    Raises:
        SettingsError: a setting that does not exist, or that cannot be.
    """
    from trl import ModelConfig, TrlParser

    from vtagent.training.rl.settings import GraphGRPOConfig

    parser = TrlParser(
        (RunArguments, GraphGRPOConfig, ModelConfig),
        prog=PROGRAM,
        usage="%(prog)s --config FILE [--SETTING VALUE …]  (--help lists all settings)",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        run, args, model_args = parser.parse_args_and_config(arguments)
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise SettingsError(" ".join(str(error).split())) from error
    args.remove_unused_columns = False
    args.disable_tqdm = True  # our own progress is shown
    return run, args, model_args


def _trainer(run: RunArguments, args: GraphGRPOConfig, model_args: Any) -> Any:
    from transformers import AutoModelForImageTextToText, PrinterCallback
    from trl import get_peft_config

    from vtagent.models.families import checkpoint_path
    from vtagent.models.processor import VLProcessor
    from vtagent.models.vllm.engine import VLLMEngine
    from vtagent.training.data import mixed, open_examples
    from vtagent.training.rewards import build_grader
    from vtagent.training.rl.guards import check_settings, check_trl
    from vtagent.training.rl.progress import ShowProgress
    from vtagent.training.rl.trainer import GraphGRPOTrainer

    if not model_args.model_name_or_path:
        raise SettingsError("give a model to start from: --model_name_or_path base")
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise SettingsError("load_in_4bit and load_in_8bit have no effect; leave them out, and set dtype: bfloat16")
    # The trainer checks again, with the number of examples; what is wrong by itself is told before they are read.
    check_trl()
    check_settings(args, external_engine=run.engine_url is not None, adapters=model_args.use_peft)
    path = _at_revision(checkpoint_path(model_args.model_name_or_path), model_args.model_revision)
    processor = VLProcessor.from_pretrained(path)
    grader = build_grader(
        run.grader, judge_model=run.judge_model, judge_url=run.judge_url, cache=Path(args.output_dir) / "judge"
    )
    count = run.count
    if count is None and run.data.startswith("rendered"):
        count = args.prompts_per_window * args.steps(args.prompts_per_window)
    examples = open_examples(run.data, columns=run.columns, split=run.split, count=count, seed=args.seed)
    if run.mix:
        examples = mixed(examples, run.mix, seed=args.seed)
        args.shuffle_dataset = False  # the mixture's order is random already, and even
    asyncio.run(grader.check())
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=model_args.dtype or "float32",
            attn_implementation=model_args.attn_implementation or "sdpa",
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"no model at {path!r}: {' '.join(str(error).split())[:200]}") from error
    if run.freeze_vision:
        model.model.visual.requires_grad_(False)
    trainer = GraphGRPOTrainer(
        model,
        args,
        examples,
        processor,
        grader,
        engine=VLLMEngine(run.engine_url, processor) if run.engine_url else None,
        peft_config=get_peft_config(model_args),
        callbacks=[ShowProgress()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _at_revision(path: str, revision: str) -> str:
    """Where a hub's model lies in that revision, fetched whole, so that processor and weights are of one."""
    if revision == "main":
        return path
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path, revision=revision)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"no model at {path!r} in revision {revision!r}: {said}") from error


def remember(settings: dict[str, Any], folder: Path, *, going_on: bool) -> None:
    """Keep a run's settings beside it; a run is gone on with under its own settings only.

    Raises:
        SettingsError: the folder's checkpoints were made under others, or its settings cannot be read.
    """
    path = folder / RUN
    now = json.loads(json.dumps({name: value for name, value in settings.items() if name not in _FREE}, default=str))
    if going_on and path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingsError(f"{path} is not JSON; remove it, or name another --output_dir") from error
        # A setting that the run was begun without is newer than the run, which went as it does by default.
        other = sorted(name for name in before if name not in _FREE and before[name] != now.get(name))
        if other:
            name = other[0]
            raise SettingsError(
                f"{folder} holds a run with other settings ({name}: {before.get(name)!r}, now {now.get(name)!r}); "
                "name another --output_dir, or delete it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1, sort_keys=True) + "\n")


def save_policy(trainer: Any, folder: Path, *, half: bool) -> None:
    """Write the trained policy as any `from_pretrained` reads it, adapters merged; called by all processes together."""
    from vtagent.training.rl.weights import plain_model, whole_weights

    weights = whole_weights(trainer.model, trainer.accelerator)
    if not trainer.accelerator.is_main_process:
        return
    plain = plain_model(trainer.accelerator.unwrap_model(trainer.model))
    if half:
        weights = {name: weight.half() for name, weight in weights.items()}
    plain.save_pretrained(folder, state_dict=weights)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("use_cache", None)  # off for training alone
    if half:  # transformers has written down the trained model's own dtype
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float16"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    trainer.processing_class.save_pretrained(folder)


def _evaluate(folder: Path, documents: int, args: GraphGRPOConfig) -> None:
    from vtagent.training import evaluate

    modes = ["full"] if args.task == "general" else ["full", "quarter", "zoom", "forced-zoom", "forced-direct"]
    command = ["--model", str(folder / "policy"), "--modes", *modes, "--documents", str(documents)]
    command += ["--max-tokens", str(args.max_completion_length), "--mix", "large print=2", "small print=1"]
    if args.task == "zoom":
        command += ["--scale", str(args.scale), "--max-zooms", str(args.max_zooms)]
    evaluate.main([*command, "--history", str(folder), "--out", str(folder / "evaluation")])


if __name__ == "__main__":
    main()
