"""Teach a policy when a cheap look is enough, by GRPO over the graph that agents run.

    python -m training.grpo --config training/recipes/tiny.yaml
    python -m training.grpo --config training/recipes/tiny.yaml --penalty always --output_dir runs/always
    python -m training.grpo --config training/recipes/tiny.yaml --graph my_package.graphs:build --output_dir runs/mine
    accelerate launch --multi_gpu --num_processes 2 -m training.grpo --config training/recipes/tiny.yaml

Settings are TRL's (`GRPOConfig`, `ModelConfig`) and those of this package. Put them in a YAML file or on the command
line; the command line wins. Add `--multi_gpu` for CPUs too: without it, accelerate starts a single process if it finds
no second GPU. If a run is interrupted, the same command continues from its last checkpoint, as if it had never stopped.
`output_dir` gets policy/, runs/ (metrics for TensorBoard), rollouts/ (see `python -m training.rollouts`), and
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtagent.errors import ModelError, SettingsError, VtagentError, one_line
from vtagent.training.command_line import grader_of, setting
from vtagent.training.durable import checkpoints, write_whole

if TYPE_CHECKING:
    from vtagent.training.data import Example
    from vtagent.training.rl.settings import GraphGRPOConfig

PROGRAM = "grpo"
RUN = "run.json"
_FREE = {"output_dir", "logging_dir", "report_to", "disable_tqdm", "run_name", "save_total_limit", "logging_steps"} | {
    "log_rollouts",
    "log_rollouts_keep",
    "evaluate_documents",
    "evaluate_mix",
    "evaluate_steps",
    "eval_data",
    "concurrency",
    "run_seconds",
    "engine_url",
    "judge_url",
    "judge_timeout",
    "judge_attempts",
    "judge_concurrency",
    "barren_share",
    "barren_patience",
}
"""Settings that may change when a run is resumed: the trained parameters do not depend on them."""


@dataclass
class RunArguments:
    """Settings of a run beside TRL's: the data, the grader, and what happens to the policy."""

    data: str = setting(
        "rendered",
        "rendered, rendered-medium, rendered-wide (cards), pages, pages-wide (pages with sections), a .jsonl or "
        ".parquet file, a folder, or a data set's id on the hub.",
    )
    columns: list[str] = setting(list, "NAME=COLUMN for image, question, answers, source where they differ.")
    split: str = setting("train", "Part of a data set.")
    count: int | None = setting(None, "Maximum number of examples.")
    eval_data: str | None = setting(
        None, "Questions to measure on, as data. Default: a part of data, unless that is drawn."
    )
    held_out: float = setting(0.1, "Share of data that is measured on and not trained on, unless data are drawn.")
    mix: list[str] = setting(
        list, "SOURCE=WEIGHT: proportions of sources in every stretch of data; *=WEIGHT is all others."
    )
    grader: str = setting("exact", "Steps out of exact, anls, numeric, math, judge, with +.")
    judge_model: str | None = setting(None, "The judge's name at its server.")
    judge_url: str | None = setting(None, "An OpenAI-compatible server.")
    judge_timeout: float = setting(60.0, "Seconds for one reply of the judge.")
    judge_attempts: int = setting(4, "How often the judge is asked one question before the row has no verdict.")
    judge_concurrency: int = setting(16, "Questions to the judge under way together.")
    judge_temperature: str = setting("0", "A number, or none for models that refuse one.")
    graph: str | None = setting(
        None,
        "The graph to train over instead of the zoom graph: package.module:build, file.py:build, or a name in "
        "langgraph.json. build is given a chat model and returns the compiled graph.",
    )
    reward_functions: list[str] = setting(
        list, "package.module:function=WEIGHT: further terms of the reward; a function is given a Rollout."
    )
    engine_url: str | None = setting(None, "Sample from this vLLM server, which loads the weights before each step.")
    freeze_vision: bool = setting(False, "Train only the language model.")
    half_precision: bool = setting(False, "Save the policy in float16.")
    evaluate_documents: int = setting(
        0, "Fresh pages of each source to measure the policy on; cards, unless data are pages. 0: no evaluation."
    )
    evaluate_mix: list[str] = setting(list, "SOURCE=WEIGHT: weights of sources in the evaluation's overall row.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except VtagentError as error:
        raise SystemExit(f"{PROGRAM}: {error}") from error


def _run(arguments: list[str]) -> None:
    # TRL still uses the old names; its users cannot change that.
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
    from transformers.utils import logging

    from vtagent.training.rl.callbacks import StopWhenAsked
    from vtagent.training.rl.card import write_card
    from vtagent.training.rl.publish import Hub

    logging.disable_progress_bar()  # for reading and writing weights

    run, args, model_args = parse(arguments)
    folder = Path(args.output_dir)
    hub = Hub.of(args) if args.push_to_hub else None
    trainer, held = _trainer(run, args, model_args)
    found = checkpoints(folder)
    settings = {**vars(run), **args.to_dict(), **vars(model_args)}
    if trainer.accelerator.is_main_process:
        remember(settings, folder, going_on=bool(found))
    stop = StopWhenAsked(trainer.accelerator, args.batches_per_window)
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=str(found[-1][1]) if found else None)
    if trainer.state.global_step == trainer.state.max_steps:
        trainer.measure_held_out()  # the last step's policy may be the best one
    trainer.collector.close()
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        print(f"stopped at step {trainer.state.global_step}; the same command goes on from here", file=sys.stderr)
        return
    save_policy(trainer, folder / "policy", half=run.half_precision)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        trainer.save_state()
        print(f"wrote {folder / 'policy'}", file=sys.stderr)
        if trainer.best is not None and trainer.best.step is not None:
            print(f"{trainer.best.folder} did best on held-out questions, at step {trainer.best.step}", file=sys.stderr)
        table = _evaluate(folder, run, args, held) if held or run.evaluate_documents else None
        write_card(folder / "policy", settings=settings, command=arguments, table=table)
        if hub is not None:
            print(f"pushed to {hub.push(folder / 'policy')}", file=sys.stderr)


def parse(arguments: list[str]) -> tuple[RunArguments, GraphGRPOConfig, Any]:
    """Read the settings from a YAML file and the command line.

    Args:
        arguments: Words of the command line.

    Returns:
        The settings of this package, of GRPO, and of the model (TRL's `ModelConfig`).

    Raises:
        SettingsError: A setting that does not exist, or a value that it cannot have.
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
        raise SettingsError(one_line(error, limit=1000)) from error
    _keep_to_own_data(run, arguments)
    args.remove_unused_columns = False
    args.disable_tqdm = True  # `ShowProgress` adds the metrics
    return run, args, model_args


def _keep_to_own_data(run: RunArguments, arguments: Sequence[str]) -> None:
    """Leave out what a recipe says of its own data, if the command line names other data."""
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    if "--config" not in given or "--data" not in given:
        return
    own: dict[str, Any] = {"mix": [], "columns": [], "evaluate_mix": [], "evaluate_documents": 0, "count": None}
    left_out = [name for name, none in own.items() if f"--{name}" not in given and getattr(run, name) != none]
    for name in left_out:
        setattr(run, name, own[name])
    if left_out:
        verb = "are" if len(left_out) > 1 else "is"
        print(
            f"{PROGRAM}: {', '.join(left_out)} of the recipe {verb} about its own data and {verb} left out",
            file=sys.stderr,
        )


def _trainer(run: RunArguments, args: GraphGRPOConfig, model_args: Any) -> tuple[Any, Sequence[Example]]:
    """The trainer, and the questions that are held out."""
    from transformers import AutoModelForImageTextToText, PrinterCallback
    from trl import get_peft_config

    from vtagent.models.families import checkpoint_path
    from vtagent.models.processor import VLProcessor
    from vtagent.models.vllm.engine import VLLMEngine
    from vtagent.training.data import DRAWN, held_out, mixed, open_examples
    from vtagent.training.named import graph_builder, weighted_functions
    from vtagent.training.rl.callbacks import ShowProgress, WatchDecision
    from vtagent.training.rl.guards import check_settings, check_trl
    from vtagent.training.rl.trainer import GraphGRPOTrainer

    if not model_args.model_name_or_path:
        raise SettingsError("give a model to start from: --model_name_or_path base")
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise SettingsError("load_in_4bit and load_in_8bit have no effect; leave them out, and set dtype: bfloat16")
    # The trainer checks again, with the number of examples. This check fails before they are read.
    check_trl()
    check_settings(args, external_engine=run.engine_url is not None, adapters=model_args.use_peft)
    if not 0 <= run.held_out < 1:
        raise SettingsError(f"held_out {run.held_out:g} is a share of the data, from 0 to below 1: try 0.1")
    own_graph = {"build": graph_builder(run.graph)} if run.graph else {}
    functions = weighted_functions(run.reward_functions, setting="reward_functions")
    path = _at_revision(checkpoint_path(model_args.model_name_or_path), model_args.model_revision)
    processor = VLProcessor.from_pretrained(path)
    grader = grader_of(run, Path(args.output_dir))
    count = run.count
    if drawn := DRAWN.get(run.data):
        if processor.vision.fit(*drawn.size) != drawn.size:
            raise SettingsError(
                f"{model_args.model_name_or_path!r} cannot be shown pages of {drawn.size[0]} × {drawn.size[1]} pixels, "
                f"as data {run.data!r} has them; start from a policy that has learned them, or train on data: rendered"
            )
        count = count or args.prompts_per_window * args.steps(args.prompts_per_window) * drawn.spare
    examples: Sequence[Example] = open_examples(
        run.data, columns=run.columns, split=run.split, count=count, seed=args.seed
    )
    held: Sequence[Example] = ()
    if run.eval_data:
        held = open_examples(run.eval_data, columns=run.columns, split=run.split, seed=args.seed + 1)
    elif run.held_out and not drawn:
        examples, held = held_out(examples, run.held_out, seed=args.seed)
        print(f"{PROGRAM}: {len(held)} of {len(examples) + len(held)} questions are held out", file=sys.stderr)
    if args.evaluate_steps and not held:
        raise SettingsError(
            "evaluate_steps measures held-out questions, and there are none: name eval_data, or data of your own"
        )
    if run.mix:
        examples = mixed(examples, run.mix, seed=args.seed)
        args.shuffle_dataset = False  # the mixture is shuffled already, with evenly spread sources
    asyncio.run(grader.check())
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=model_args.dtype or "float32",
            attn_implementation=model_args.attn_implementation or "sdpa",
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"no model at {path!r}: {one_line(error)}") from error
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
        functions=functions,
        held_out=held,
        save=partial(save_policy, half=run.half_precision),
        **own_graph,
        callbacks=[ShowProgress(), *([WatchDecision(args.rewards)] if args.task == "zoom" else [])],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, held


def _at_revision(path: str, revision: str) -> str:
    """Fetch a revision of a hub model, so that processor and weights belong together.

    Returns:
        The local folder, or `path` itself for the revision "main".

    Raises:
        ModelError: There is no such revision.
    """
    if revision == "main":
        return path
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model at {path!r} in revision {revision!r}: {one_line(error)}") from error


def remember(settings: dict[str, Any], folder: Path, *, going_on: bool) -> None:
    """Write the settings of a run to its folder. A run can be resumed only with the settings it was started with.

    Args:
        settings: All settings; those in `_FREE` are left out.
        folder: The output folder of the run; made if missing.
        going_on: Whether the run is resumed.

    Raises:
        SettingsError: The run was started with other settings, or they cannot be read.
    """
    path = folder / RUN
    now = json.loads(json.dumps({name: value for name, value in settings.items() if name not in _FREE}, default=str))
    if going_on and path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingsError(f"{path} is not JSON; remove it, or name another --output_dir") from error
        # A setting that is missing there is newer than the run; the run had its default.
        other = sorted(
            name for name in before if name not in _FREE and not _may_follow(name, before[name], now.get(name))
        )
        if other:
            name = other[0]
            raise SettingsError(
                f"{folder} holds a run with other settings ({name}: {before.get(name)!r}, now {now.get(name)!r}); "
                "name another --output_dir, or delete it"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(now, indent=1, sort_keys=True) + "\n")


def _may_follow(name: str, before: Any, now: Any) -> bool:
    """Whether a run that goes on may have another value of a setting: a run may be made longer."""
    numbers = isinstance(before, int | float) and isinstance(now, int | float)
    return before == now or (name in ("max_steps", "num_train_epochs") and numbers and 0 < before < now)


def save_policy(trainer: Any, folder: Path, *, half: bool) -> None:
    """Write the trained policy in the form that `from_pretrained` reads, with adapters merged.

    Args:
        trainer: The trainer. All its processes must call this together.
        folder: The folder to write.
        half: Whether to write float16.
    """
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
    config.pop("use_cache", None)  # off only for training
    if half:  # transformers has written the dtype of the trained model
        for part in (config, config["text_config"], config["vision_config"]):
            part["dtype"] = "float16"
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    trainer.processing_class.save_pretrained(folder)


def _evaluate(folder: Path, run: RunArguments, args: GraphGRPOConfig, held: Sequence[Example]) -> str:
    """Measure the policy on the held-out questions or, without any, on fresh documents like those of the training.

    Returns:
        The tables.
    """
    from vtagent.training import evaluate

    modes = ["full"] if args.task == "general" else ["full", "quarter", "zoom", "forced-zoom", "forced-direct"]
    modes = ["zoom"] if run.graph else modes  # another graph need not know the settings that the others stand for
    command = ["--model", str(folder / "policy"), "--modes", *modes, "--max-tokens", str(args.max_completion_length)]
    if not held:
        command += ["--documents", str(run.evaluate_documents), "--domain", evaluate.domain_of(run.data)]
    else:
        command += ["--grader", run.grader, "--judge-temperature", run.judge_temperature]
        for name in ("judge_model", "judge_url"):
            if value := getattr(run, name):
                command += [f"--{name.replace('_', '-')}", value]
    if run.evaluate_mix:
        command += ["--mix", *run.evaluate_mix]
    if run.graph:
        command += ["--graph", run.graph]
    if args.task == "zoom":
        command += ["--scale", str(args.scale), "--max-zooms", str(args.max_zooms)]
    out = folder / "evaluation"
    evaluate.main([*command, "--history", str(folder), "--out", str(out)], examples=held or None)
    return (out / "table.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
