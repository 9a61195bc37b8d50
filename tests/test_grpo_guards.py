"""What is known to go wrong with GRPO over images and tools is refused at start-up, in a line that tells what to do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from peft import LoraConfig
from trl import GRPOTrainer

from tests.checkpoints import make_model, make_processor
from tests.grpo_runs import KNOWN_WARNINGS, settings, trainer
from vtagent.errors import SettingsError
from vtagent.models.families import tool_template
from vtagent.training.rl.guards import check_dropout, check_model, check_settings, check_trl
from vtagent.training.rl.settings import GraphGRPOConfig

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


def refused(folder: Path, *, examples: int = 100, external_engine: bool = False, **given: Any) -> str:
    """What is said about settings that cannot work."""
    args = settings(folder, **given)
    with pytest.raises(SettingsError) as caught:
        check_settings(args, examples=examples, external_engine=external_engine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_installed_trl_is_the_one_that_this_was_written_against() -> None:
    check_trl()


def test_a_trl_that_takes_something_else_from_its_rollouts_is_noticed() -> None:
    class Moved(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            prompt_ids_list, completion_ids_list, extra = self._generate(inputs)
            return prompt_ids_list, completion_ids_list, extra

    with pytest.raises(SettingsError, match=r"TRL .* has changed _generate's result; install"):
        check_trl(Moved)


@pytest.mark.parametrize("name", ["_generate", "_calculate_rewards", "_get_train_sampler", "_save_checkpoint"])
def test_a_trl_whose_methods_take_other_arguments_is_noticed(name: str) -> None:
    moved = type("Moved", (GRPOTrainer,), {name: lambda self, something, new: None})
    with pytest.raises(SettingsError, match=f"has changed {name}"):
        check_trl(moved)


def test_a_trl_that_scores_rows_differently_is_noticed() -> None:
    moved = type("Moved", (GRPOTrainer,), {"_get_per_token_logps_and_entropies": lambda self, model, rows: None})
    with pytest.raises(SettingsError, match="no input_ids, attention_mask"):
        check_trl(moved)


def test_good_settings_pass(tmp_path: Path) -> None:
    check_settings(settings(tmp_path), examples=2, external_engine=False)
    check_settings(settings(tmp_path, task="general"), examples=2, external_engine=True)


def test_settings_of_trls_own_rollout_loop_are_refused(tmp_path: Path) -> None:
    assert "give the trainer a vLLM engine" in refused(tmp_path, use_vllm=True)
    assert "max_tool_calling_iterations has no effect" in refused(tmp_path, max_tool_calling_iterations=3)
    assert "min_p has no effect" in refused(tmp_path, min_p=0.1)
    assert "repetition_penalty" in refused(tmp_path, repetition_penalty=1.1)
    assert "reward_weights" in refused(tmp_path, reward_weights=[1.0, 2.0, 1.0])
    assert "reward_weights" in refused(tmp_path, multi_objective_aggregation="normalize_then_sum")
    assert "eval_strategy" in refused(tmp_path, eval_strategy="steps", eval_steps=1)


def test_autocast_is_off_and_refused_where_rollouts_are_sampled_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings(tmp_path).bf16 is GraphGRPOConfig(str(tmp_path)).bf16 is False
    assert "bf16: false" in refused(tmp_path, bf16=True)
    check_settings(settings(tmp_path, bf16=True), examples=2, external_engine=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = settings(tmp_path)
    with pytest.raises(SettingsError, match="bf16: false"):
        check_settings(args, examples=2, external_engine=False)


def test_one_process_of_the_several_that_were_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = settings(tmp_path)
    check = partial(check_settings, args, examples=2, external_engine=False)
    for processes in ("1", "2"):
        asked = launch_command_parser().parse_args(["--num_processes", processes, "-m", "training.grpo"])
        asked.num_machines, asked.use_cpu, asked.mixed_precision, asked.dynamo_backend = 1, False, "no", "no"
        _, environment = prepare_simple_launcher_cmd_env(asked)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if processes == "1":
            check()
    with pytest.raises(SettingsError, match="add --multi_gpu to accelerate launch"):
        check()
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a launcher says that has started both
    check()


def test_dropout_is_refused(tmp_path: Path) -> None:
    plain = torch.nn.Linear(2, 2)
    check_dropout(plain, None)
    check_dropout(plain, LoraConfig(lora_dropout=0.0))
    check_dropout(torch.nn.Sequential(plain, torch.nn.Dropout(0.0)), None)
    with pytest.raises(SettingsError, match=r"set lora_dropout: 0 \(it is 0.05\)"):
        check_dropout(plain, LoraConfig(lora_dropout=0.05))
    with pytest.raises(SettingsError, match="the model has dropout"):
        check_dropout(torch.nn.Sequential(plain, torch.nn.Dropout(0.1)), None)
    with pytest.raises(SettingsError, match="set lora_dropout"):
        trainer(tmp_path, peft_config=LoraConfig(lora_dropout=0.05))


def test_a_correction_summed_over_whole_rollouts_is_refused_where_it_would_be_used(tmp_path: Path) -> None:
    assert GraphGRPOConfig(str(tmp_path), use_cpu=True).vllm_importance_sampling_mode == "token_truncate"
    said = refused(tmp_path, external_engine=True, vllm_importance_sampling_mode="sequence_mask")
    assert "set token_truncate" in said


@pytest.mark.parametrize("launched", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_weights_need_an_engine_of_their_own_and_bear_no_adapters(
    launched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = settings(tmp_path)
    monkeypatch.setenv(launched, "true")
    check_settings(args, examples=2, external_engine=True)
    with pytest.raises(SettingsError, match="sharded weights cannot be sampled from in place"):
        check_settings(args, examples=2, external_engine=False)
    with pytest.raises(SettingsError, match="adapters cannot be merged into sharded weights"):
        check_settings(args, examples=2, external_engine=True, adapters=True)


def test_a_group_that_does_not_fit_the_batch_is_refused(tmp_path: Path) -> None:
    args = settings(tmp_path)
    args.num_generations = 3
    with pytest.raises(SettingsError, match="groups of 3 rollouts do not fit a generation of 8"):
        check_settings(args, examples=100, external_engine=False)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    assert "1 examples are too few: a generation takes 2 prompts" in refused(tmp_path, examples=1)


@pytest.mark.parametrize(
    "given",
    [
        {"save_steps": 1, "steps_per_generation": 2},
        {"save_steps": 3, "num_iterations": 2},
        {"save_strategy": "epoch"},
        {"save_steps": 0.5},
    ],
)
def test_checkpoints_in_the_middle_of_a_generation_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    assert "resumed from only where a generation is used up" in refused(tmp_path, **{"save_strategy": "steps", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "swim"}, "task must be one of zoom, general"),
        ({"penalty": "harsh"}, "penalty must be one of paper"),
        ({"threshold": 2.0}, "threshold must be between 0 and 1"),
        ({"scale": 0.0}, "scale must be above 0"),
        ({"max_zooms": 0}, "set task: general"),
        ({"temperature": 0.0}, "sample at 1"),
        ({"run_seconds": 0.0}, "must be positive"),
        ({"task": "general", "probe_steps": 1}, "does not have; leave it out"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    assert said in refused(tmp_path, **given)


def test_a_template_that_leaves_out_tools_or_their_images_is_refused() -> None:
    silent = "{% for m in messages %}{{ m.role }}{% endfor %}"
    processor = make_processor("qwen2_5_vl", chat_template=silent)
    processor.tokenizer.padding_side = "left"
    with pytest.raises(SettingsError, match="leaves out tools"):
        check_model(make_model("qwen2_5_vl", processor), processor)


def test_padding_on_the_right_is_refused() -> None:
    processor = make_processor("qwen3_vl", chat_template=tool_template())
    processor.tokenizer.padding_side = "right"
    with pytest.raises(SettingsError, match="pad on the left"):
        check_model(make_model("qwen3_vl", processor), processor)


def test_a_processor_of_another_make_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"VLProcessor\.from_pretrained"):
        check_model(None, object())
