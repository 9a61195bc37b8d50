"""Start-up checks: settings that are known to break GRPO over images and tools are refused before the first rollout.

Each check raises SettingsError with one line that says what to change. Problems that can be avoided are not checked
here: truncated samples keep their attention (`samples`), image tokens are banned in every request (`collect`),
groups that span processes are gathered, and failed rollouts get no reward instead of 0 (`groups`).
"""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from typing import Any

import torch
from trl import GRPOTrainer
from trl import __version__ as trl_version

from vtagent.errors import ModelError, SettingsError
from vtagent.models.codec import IMAGE_TOKEN, Codec
from vtagent.training.rl.settings import TASKS, GraphGRPOConfig

GENERATED = (
    "prompt_ids_list",
    "completion_ids_list",
    "tool_mask_list",
    "completions",
    "sampling_per_token_logps_list",
    "extra_fields",
    "images",
    "tool_images",
)
"""What TRL 1.16 takes from `_generate`, by TRL's names."""

_OVERRIDDEN = {
    "_generate": ["prompts"],
    "_generate_and_score_completions": ["inputs"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_get_train_sampler": ["dataset"],
    "_get_output_dir": ["trial"],
    "_save_checkpoint": ["model", "trial"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
}
_FORWARD = [
    "model",
    "input_ids",
    "attention_mask",
    "logits_to_keep",
    "batch_size",
    "compute_entropy",
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "mm_token_type_ids",
]
_NO_EFFECT = (
    "generation_kwargs",
    "chat_template_kwargs",
    "min_p",
    "cache_implementation",
    "max_tool_calling_iterations",
    "use_transformers_continuous_batching",
)


def check_trl(trainer: type[Any] = GRPOTrainer) -> None:
    """Check that the installed TRL takes rollouts like the version that this code was written for.

    Args:
        trainer: TRL's trainer.

    Raises:
        SettingsError: The internals of TRL have changed.
    """
    moved = [name for name, taken in _OVERRIDDEN.items() if _parameters(trainer, name) != taken]
    taken = _parameters(trainer, "_get_per_token_logps_and_entropies")
    if missing := [name for name in _FORWARD if name not in taken]:
        moved.append(f"_get_per_token_logps_and_entropies (no {', '.join(missing)})")
    if not moved and _taken(trainer) != GENERATED:
        moved.append("_generate's result")
    if moved:
        raise SettingsError(
            f"TRL {trl_version} has changed {', '.join(moved)}; install the version that the constraints file names"
        )


def check_settings(
    args: GraphGRPOConfig, *, examples: int | None = None, external_engine: bool, adapters: bool = False
) -> None:
    """Check that the settings can work together.

    Args:
        args: The settings.
        examples: Number of training examples. None: not known yet.
        external_engine: Whether rollouts are sampled by something other than the trained model in this process.
        adapters: Whether PEFT adapters are trained, not the model's own weights.

    Raises:
        SettingsError: They cannot.
    """
    _check_launch()
    _check_values(args)
    _check_batches(args, examples)
    if args.use_vllm:
        raise SettingsError(
            "use_vllm is TRL's own rollout loop, which runs no graph: leave it off, and give the trainer a vLLM engine"
        )
    for name in _NO_EFFECT:
        if getattr(args, name):
            raise SettingsError(f"{name} has no effect on rollouts of a graph; leave it out")
    if args.reward_weights is not None or args.multi_objective_aggregation != "sum_then_normalize":
        raise SettingsError(
            "reward_weights and multi_objective_aggregation would train on other rewards than are logged and compared: "
            "leave them out, and set format_reward and penalty_size"
        )
    if args.repetition_penalty != 1:
        raise SettingsError(
            "repetition_penalty would make sampled log-probabilities other than the trainer's; leave it 1"
        )
    if _autocast(args) and not external_engine:
        raise SettingsError(
            "under autocast the trainer would score otherwise than the same weights sample without it: set bf16: false "
            "(and the weights' dtype to bfloat16, if you like), or give the trainer a vLLM engine"
        )
    if external_engine and args.vllm_importance_sampling_mode != "token_truncate":
        raise SettingsError(
            f"vllm_importance_sampling_mode {args.vllm_importance_sampling_mode!r} sums differences over a whole "
            "rollout, which drops long ones; set token_truncate"
        )
    if _sharded(args) and not external_engine:
        raise SettingsError("sharded weights cannot be sampled from in place: give the trainer a vLLM engine")
    if _sharded(args) and adapters:
        raise SettingsError("adapters cannot be merged into sharded weights: train them without FSDP or DeepSpeed")


def check_dropout(model: Any, peft_config: Any) -> None:
    """Check that there is no dropout. Rollouts are sampled without it, so training would score them differently.

    Args:
        model: The model.
        peft_config: The adapters to be added, if any.

    Raises:
        SettingsError: The model or the adapters have dropout.
    """
    if getattr(peft_config, "lora_dropout", 0.0):
        raise SettingsError(
            f"with dropout the trainer would not see the log-probabilities that were sampled: set lora_dropout: 0 "
            f"(it is {peft_config.lora_dropout:g})"
        )
    if any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)):
        raise SettingsError("the model has dropout, which rollouts are sampled without: set its rates to 0")


def _check_launch() -> None:
    """Check that `accelerate launch` has started all processes that it was asked for.

    Without a second GPU it starts only one. That process knows the address of the others, but not their number.
    """
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise SettingsError(
            "accelerate has started one process of those that it was asked for, as it does where it finds no second "
            "GPU: add --multi_gpu to accelerate launch, for CPUs too"
        )


def _autocast(args: GraphGRPOConfig) -> bool:
    """Whether forward passes use mixed precision, by the settings or by the environment of `accelerate launch`."""
    return bool(args.bf16 or args.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no")


def _sharded(args: GraphGRPOConfig) -> bool:
    """Whether each process holds a part of the weights, by the settings or `accelerate launch`'s environment."""
    launched = (os.environ.get(f"ACCELERATE_USE_{name}", "false") for name in ("FSDP", "DEEPSPEED"))
    return bool(args.deepspeed or args.fsdp) or any(said.lower() in ("true", "1", "yes") for said in launched)


def _check_values(args: GraphGRPOConfig) -> None:
    if args.task not in TASKS:
        raise SettingsError(f"task must be one of {', '.join(TASKS)}, not {args.task!r}")
    try:
        _ = args.rewards, args.context
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if args.task == "zoom" and args.max_zooms < 1:
        raise SettingsError("max_zooms 0 offers no tool, so there is nothing to decide: set task: general")
    if args.temperature <= 0:
        raise SettingsError("temperature 0 gives every rollout of a group the same tokens; sample at 1")
    if (
        args.run_seconds <= 0
        or args.concurrency < 1
        or min(args.refill_rounds, args.probe_steps, args.evaluate_steps, args.log_rollouts_keep) < 0
    ):
        raise SettingsError(
            "run_seconds and concurrency must be positive; refill_rounds, probe_steps, evaluate_steps and "
            "log_rollouts_keep not negative"
        )
    if not 0 < args.barren_share <= 1 or args.barren_patience < 0:
        raise SettingsError("barren_share must be above 0 and at most 1, barren_patience not negative: try 0.95 and 10")
    if args.probe_steps and args.task == "general":
        raise SettingsError("probe_steps forces the decision to zoom, which task: general does not have; leave it out")
    if args.eval_strategy != "no":
        raise SettingsError("eval_strategy runs TRL's own loop: set evaluate_steps, which runs the graph")


def _check_batches(args: GraphGRPOConfig, examples: int | None) -> None:
    rows, group = int(args.generation_batch_size), int(args.num_generations)
    if group < 2 or rows % group:
        raise SettingsError(
            f"groups of {group} rollouts do not fit a generation of {rows} (per_device_train_batch_size × processes × "
            "steps_per_generation): make one a multiple of the other"
        )
    if examples is not None and examples < args.prompts_per_window:
        raise SettingsError(
            f"{examples} examples are too few: a generation takes {args.prompts_per_window} prompts. Give more, or set "
            f"per_device_train_batch_size to {examples * group} or less (a multiple of num_generations, {group})"
        )
    window, step = args.batches_per_window, int(args.gradient_accumulation_steps)
    saves = args.save_strategy != "no"
    if saves and (args.save_steps < 1 or args.save_strategy != "steps" or int(args.save_steps) * step % window):
        raise SettingsError(
            f"a checkpoint can be resumed from only where a generation is used up: every {window / step:g} steps; "
            f"save_strategy {str(args.save_strategy)!r} with save_steps {args.save_steps:g} is not a multiple of that"
        )


def check_model(model: Any, processor: Any) -> None:
    """Check the processor: the template shows tools and the images that they return, and padding is on the left.

    Args:
        model: The model.
        processor: Its processor.

    Raises:
        SettingsError: The model cannot be trained over the graph with this processor.
    """
    if getattr(processor, "image_token", None) != IMAGE_TOKEN:
        raise SettingsError("the processor must be a VLProcessor: load it with VLProcessor.from_pretrained")
    if processor.tokenizer.padding_side != "left":
        raise SettingsError('the tokenizer must pad on the left: set processor.tokenizer.padding_side = "left"')
    codec = Codec(processor.tokenizer, processor.chat_template)
    tool = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    shown: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "image"}]},
    ]
    try:
        with_tool, without = codec.render(shown, [tool]), codec.render(shown, [])
    except ModelError as error:
        raise SettingsError(f"the chat template cannot show a tool call: {error}") from None
    if with_tool == without or with_tool.count(IMAGE_TOKEN) != 2:
        raise SettingsError(
            "the chat template leaves out tools, or the images that they return; use one that shows them"
        )
    if codec.image_token_id != model.config.image_token_id:
        raise SettingsError("the processor's image token is not the model's: load both from one checkpoint")


def _parameters(trainer: type[Any], name: str) -> list[str]:
    method = getattr(trainer, name, None)
    return [] if method is None else list(inspect.signature(method).parameters)[1:]


def _taken(trainer: type[Any]) -> tuple[str, ...]:
    """The names that TRL unpacks `self._generate(…)` into."""
    source = textwrap.dedent(inspect.getsource(trainer._generate_and_score_completions))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called, target = node.value.func, node.targets[0]
            if isinstance(called, ast.Attribute) and called.attr == "_generate" and isinstance(target, ast.Tuple):
                return tuple(name.id for name in target.elts if isinstance(name, ast.Name))
    return ()
