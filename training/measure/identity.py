"""Short names for what an evaluation measured: digests of weights and questions, so that no two are confused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtagent.models.families import checkpoint_path
from vtagent.training.data import Example

_BLOCK, _BLOCKS = 2**16, 256
"""Bytes per block, and blocks per file. Of a larger file, evenly spaced blocks are read."""
_WEIGHTS = (".safetensors", ".bin", ".json", ".jinja")


def digest_of_weights(model: str) -> str:
    """A digest of the names, sizes and contents of the files in a checkpoint's folder.

    Args:
        model: The name of a bundled policy, a folder, or a hub id.

    Returns:
        16 hexadecimal digits; a hub id is returned as it is.
    """
    folder = Path(checkpoint_path(str(model)))
    if not folder.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        step = max(_BLOCK, size // _BLOCKS)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def digest_of_examples(examples: Sequence[Example]) -> str:
    """A digest of the questions, gold answers and images, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        image = hashlib.sha256(example.image).hexdigest()
        row = [example.id, image, example.question, example.answers, example.source]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def folder_name(settings: Mapping[str, Any]) -> str:
    """A readable name for the folder of an evaluation; other settings give another name."""
    model = re.sub(r"[^\w.-]+", "-", str(settings["model"]).strip("/"))[-40:].strip("-.")
    return f"{model}-{hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]}"
