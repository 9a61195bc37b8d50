"""The weights of a policy under training as a checkpoint has them, whatever is wrapped around it."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model

from tests.checkpoints import make_model, make_processor
from tests.grpo_runs import KNOWN_WARNINGS
from vtagent.models.families import tool_template
from vtagent.training.rl.weights import plain_model, whole_weights

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]


def test_a_plain_models_weights_are_its_own() -> None:
    model = make_model("qwen3_vl", make_processor("qwen3_vl", chat_template=tool_template()))
    found = whole_weights(model, Accelerator(cpu=True))
    own = model.state_dict()
    head = {"lm_head.weight"} if model.config.tie_word_embeddings else set()  # the embeddings once more
    assert found.keys() == own.keys() - head
    assert all(torch.equal(found[name], own[name]) for name in found)


def test_adapters_are_merged_into_what_is_returned_and_nothing_else_changes() -> None:
    plain = make_model("qwen3_vl", make_processor("qwen3_vl", chat_template=tool_template()))
    names = list(whole_weights(plain, Accelerator(cpu=True)))
    model = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*(q_proj|v_proj)"))
    assert plain_model(model) is plain
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = whole_weights(model, Accelerator(cpu=True))
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert sorted(found) == sorted(names)  # what `from_pretrained` looks for
    merged = 0
    for name, weight in found.items():
        layer, _, what = name.rpartition(".")
        base = before.get(f"base_model.model.{layer}.base_layer.{what}")
        if base is None:
            assert torch.equal(weight, before[f"base_model.model.{name}"])
            continue
        a, b = (before[f"base_model.model.{layer}.lora_{one}.default.weight"] for one in "AB")
        torch.testing.assert_close(weight, base + 8 / 4 * b @ a)
        merged += 1
    assert merged == 2 * plain.config.text_config.num_hidden_layers
