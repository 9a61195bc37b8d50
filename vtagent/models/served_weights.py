"""Write weights down so that a running vLLM server can be told to reload them: `VLLMEngine.reload`.

Where the output head is tied to the embeddings, a checkpoint has them once. vLLM on a CPU packs the head into a form of
its own when it is loaded, so a reload that does not name the head leaves the old one in place, without a word. Here it
is written out, in a file of its own that transformers never looks at.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_HEAD = "lm_head.weight"
_FILE = "lm_head.safetensors"
_INDEX = "model.safetensors.index.json"


def save_for_server(model: Any, folder: str | PathLike[str]) -> Path:
    """Save a transformers model's config and weights, the output head included.

    Args:
        model: The model; its weights are written in the dtype that they have.
        folder: Made if it does not exist.

    Returns:
        The folder.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head.data_ptr() == embeddings.data_ptr():
        save_file({_HEAD: head.detach().cpu().clone()}, folder / _FILE, metadata={"format": "pt"})
        _name_in_index(folder / _INDEX)
    return folder


def _name_in_index(index: Path) -> None:
    """Of weights in several files, vLLM reads those alone that the index names."""
    if index.is_file():
        told = json.loads(index.read_text(encoding="utf-8"))
        told["weight_map"][_HEAD] = _FILE
        index.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
