"""Write weights down so that a running vLLM server can be told to reload them: `VLLMEngine.reload`.

Where the output head is tied to the embeddings, a checkpoint has them once. vLLM on a CPU packs the head into a form of
its own when it is loaded, so a reload that does not name the head leaves the old one in place, without a word. Here it
is written out, in a file of its own that transformers never looks at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_HEAD = "lm_head.weight"
_FILE = "lm_head.safetensors"
_INDEX = "model.safetensors.index.json"


def save_for_server(model: Any, folder: str | PathLike[str], *, state_dict: Mapping[str, Any] | None = None) -> Path:
    """Save a transformers model's config and weights, the output head included.

    Args:
        model: The model; its weights are written in the dtype that they have.
        folder: Made if it does not exist.
        state_dict: The weights to write, if they are not the model's own as they are.

    Returns:
        The folder.
    """
    folder = Path(folder)
    model.save_pretrained(folder, state_dict=state_dict)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embeddings:
        weights = model.state_dict() if state_dict is None else state_dict
        [tied] = {name for name in weights if name.endswith(".embed_tokens.weight")}
        save_file({_HEAD: weights[tied].detach().cpu().clone()}, folder / _FILE, metadata={"format": "pt"})
        _name_in_index(folder / _INDEX)
    return folder


def _name_in_index(index: Path) -> None:
    """Of weights in several files, vLLM reads those alone that the index names."""
    if index.is_file():
        told = json.loads(index.read_text(encoding="utf-8"))
        told["weight_map"][_HEAD] = _FILE
        index.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
