"""The model card of a trained policy: what it was made from and how, and what was measured, as written by the run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtagent.training.durable import write_whole

_SHOWN = (
    "task",
    "scale",
    "max_zooms",
    "penalty",
    "penalty_size",
    "threshold",
    "format_reward",
    "num_generations",
    "max_steps",
    "learning_rate",
    "beta",
    "temperature",
    "seed",
)
"""The settings that a reader asks for first."""


def write_card(folder: Path, *, settings: Mapping[str, Any], command: Sequence[str], table: str | None) -> Path:
    """Write README.md into the folder of a policy.

    Args:
        folder: The folder of the policy.
        settings: All settings of the run.
        command: The words after `python -m vtagent.training.grpo`.
        table: The tables of the evaluation, in Markdown; None: nothing was measured.

    Returns:
        The file.
    """
    model, data = str(settings["model_name_or_path"]), str(settings["data"])
    of_the_hub = model.count("/") == 1 and not Path(model).exists()
    base = f"base_model: {json.dumps(model)}\n" if of_the_hub else ""  # a text of JSON is one of YAML
    rows = [f"| `{name}` | {settings[name]} |" for name in _SHOWN if settings.get(name) is not None]
    measured = table or "Nothing was measured by the run. `python -m vtagent.training.evaluate --model .` does."
    text = f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [vtagent, trl, grpo]
{base}---
# A policy that decides when to look closer

It began as `{model}` and was trained with GRPO over the graph that agents run, on `{data}`, with vtagent. In an agent:

```python
from vtagent import ChatVLM, create_zoom_agent

agent = create_zoom_agent(ChatVLM.from_pretrained("path/to/this/folder"))
```

## How it was made

    python -m vtagent.training.grpo {shlex.join(command)}

| setting | value |
|---|---|
{chr(10).join(rows)}

## What was measured

{measured.strip()}
"""
    path = folder / "README.md"
    write_whole(path, text)
    return path
