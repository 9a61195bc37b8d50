"""The recipes for large models: the commands they show exist, and their numbers are the paper's and fit together."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from accelerate.commands.launch import launch_command_parser
from trl import get_peft_config

from vtagent.training import select
from vtagent.training.data import DRAWN, Columns, mixed, open_examples
from vtagent.training.grpo import parse
from vtagent.training.rewards import RewardSettings, Verdict, group_rewards
from vtagent.training.rl.guards import check_dropout, check_settings

ROOT = Path(__file__).parent.parent
RECIPES = ("training/recipes/qwen2.5-vl-7b.yaml", "training/recipes/qwen3-vl-4b-lora.yaml")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def commands(recipe: str) -> list[list[str]]:
    """The indented command lines in a recipe's comments, as their words."""
    lines = [line[1:] for line in (ROOT / recipe).read_text().splitlines() if line.startswith("#     ")]
    return [shlex.split(command) for command in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]


def after(words: list[str], *start: str) -> list[str]:
    """The arguments after these words."""
    place = next(i for i in range(len(words)) if tuple(words[i : i + len(start)]) == start)
    return words[place + len(start) :]


def trainings(recipe: str) -> list[tuple[int, list[str]]]:
    """How many processes each training command of a recipe starts, and its arguments."""
    found: list[tuple[int, list[str]]] = []
    for words in commands(recipe):
        if "vtagent.training.grpo" not in words:
            continue
        processes = 1
        if "accelerate" in words:
            line = [word.replace("N", "1") if word == "N" else word for word in after(words, "accelerate", "launch")]
            options: Any = launch_command_parser().parse_args(line)
            assert options.training_script == "vtagent.training.grpo"
            processes = options.num_processes
        found.append((processes, after(words, "vtagent.training.grpo")))
    return found


ALL = [(recipe, *training) for recipe in RECIPES for training in trainings(recipe)]


def test_there_are_lines_for_one_node_of_eight_gpus_for_several_and_for_one_gpu() -> None:
    assert [processes for _, processes, _ in ALL] == [4, 32, 1]


@pytest.mark.parametrize(("recipe", "processes", "arguments"), ALL)
def test_every_setting_exists_and_they_fit_together(recipe: str, processes: int, arguments: list[str]) -> None:
    run, args, model_args = parse([*arguments, "--bf16", "false", "--use_cpu", "true"])
    # As on that many GPUs, which are not here.
    args.generation_batch_size = processes * args.per_device_train_batch_size * (args.steps_per_generation or 0)
    check_settings(args, examples=20_000, external_engine=run.engine_url is not None)
    check_dropout(torch.nn.Module(), get_peft_config(model_args))
    assert args.drop_same
    generation = args.batches_per_window // args.gradient_accumulation_steps
    assert args.probe_steps  # accuracy with the decision forced either way is logged,
    assert args.probe_steps % generation == 0  # as often as it says: only where a generation begins
    Columns.parse(run.columns)
    assert model_args.model_name_or_path.startswith("Qwen/")
    assert recipe in arguments


@pytest.mark.parametrize(("recipe", "processes", "arguments"), ALL)
def test_the_method_is_the_papers(recipe: str, processes: int, arguments: list[str]) -> None:
    run, args, _ = parse([*arguments, "--bf16", "false", "--use_cpu", "true"])
    assert args.rewards == RewardSettings()
    assert (args.num_generations, args.temperature, args.top_p) == (16, 1.0, 1.0)
    assert (args.loss_type, args.epsilon, args.beta, args.entropy_coef) == ("grpo", 0.2, 1e-3, 1e-3)
    assert (args.context.scale, args.context.max_zooms) == (0.5, 1)
    assert run.grader == "exact+judge"


def test_the_large_recipe_updates_on_32_prompts_and_on_32_gpus_samples_512() -> None:
    prompts = []
    for processes, arguments in trainings(RECIPES[0]):
        _, args, _ = parse([*arguments, "--bf16", "false", "--use_cpu", "true"])
        rows = processes * args.per_device_train_batch_size
        assert rows * args.gradient_accumulation_steps == 32 * 16
        assert args.learning_rate == 1e-6
        prompts.append(rows * (args.steps_per_generation or 0) // 16)
    assert prompts == [64, 512]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_says_where_it_is_from(recipe: str) -> None:
    lines = re.findall(r"(?m)^[a-z_]+: .*$", (ROOT / recipe).read_text())
    assert len(lines) > 40
    for line in lines:
        assert re.search(r"# .*\b(paper|released|ours)\b", line), line


def test_the_selection_that_the_small_recipe_begins_with_is_a_command_of_ours() -> None:
    (words,) = [words for words in commands(RECIPES[1]) if "vtagent.training.select" in words]
    options = select._parser().parse_args(after(words, "vtagent.training.select"))
    selected = yaml.safe_load((ROOT / RECIPES[1]).read_text())["data"]
    assert Path(selected) == options.out / "selected.jsonl"


@pytest.mark.parametrize("recipe", ["tiny", "where", "region", "ablation"])
def test_the_recipes_for_two_cores_can_be_read_and_name_sources_that_their_data_have(recipe: str) -> None:
    run, args, model_args = parse(["--config", f"training/recipes/{recipe}.yaml"])
    check_settings(args, examples=1000, external_engine=False)
    examples = open_examples(run.data, count=8)
    assert mixed(examples, run.mix).weights.keys() <= set(examples.sources)
    weighed = [word.rpartition("=")[0] for word in run.evaluate_mix]
    assert set(weighed) <= {example.source for example in DRAWN[run.data].fresh(1, 0)}
    begins = parse(["--config", "training/recipes/where.yaml"])[1].output_dir + "/policy"
    assert model_args.model_name_or_path == (begins if recipe == "region" else "base")


def test_before_regions_are_weighed_the_whole_page_earns_what_a_wrong_answer_earns() -> None:
    run, args, _ = parse(["--config", "training/recipes/where.yaml"])
    low_and_whole = 1 / 4 + 1
    [reward] = group_rewards([Verdict(True, True, True, shown=low_and_whole)], args.rewards)
    assert reward is not None
    assert reward.accuracy - reward.penalty == pytest.approx(0)
    assert run.mix == ["large print=1", "small print=2"]


def test_the_recipe_for_regions_pays_by_tokens_on_pages_half_in_large_print() -> None:
    run, args, _ = parse(["--config", "training/recipes/region.yaml"])
    assert (args.rewards.penalty, run.data) == ("tokens", "pages")
    weights = mixed(open_examples(run.data, count=8), run.mix).weights
    printed = {source: weight for source, weight in weights.items() if source != "absent"}
    assert {source: weight / sum(printed.values()) for source, weight in printed.items()} == {
        "large print": 0.5,
        "medium print": 0.25,
        "small print": 0.25,
    }
