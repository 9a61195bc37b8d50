"""Checkpoints for a running server name the tied head, and load unchanged in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.checkpoints import make_model, make_processor
from vtagent.models.vllm.weights import save_for_server


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("qwen3_vl", make_processor())


def test_the_head_is_written_beside_the_weights(model: Any, tmp_path: Path) -> None:
    folder = save_for_server(model, tmp_path / "step")
    [head] = load_file(folder / "lm_head.safetensors").values()
    assert torch.equal(head, model.get_input_embeddings().weight)


def test_transformers_loads_the_same_model(model: Any, tmp_path: Path) -> None:
    again: Any = AutoModelForImageTextToText.from_pretrained(save_for_server(model, tmp_path / "step"))
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_index_of_weights_in_several_files_names_it(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = model.save_pretrained
    monkeypatch.setattr(model, "save_pretrained", lambda folder, **rest: save(folder, max_shard_size="200KB", **rest))
    folder = save_for_server(model, tmp_path / "step")
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"]["lm_head.weight"] == "lm_head.safetensors"
    again: Any = AutoModelForImageTextToText.from_pretrained(folder)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_an_untied_head_needs_no_file_of_its_own(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = torch.nn.Linear(64, 8, bias=False)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: head)
    assert not (save_for_server(model, tmp_path / "step") / "lm_head.safetensors").exists()
