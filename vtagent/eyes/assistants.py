"""Which eyes an assistant's name means: "claude" is the newest Claude in the table; any known model's name will do."""

from __future__ import annotations

from vtagent.errors import DataError
from vtagent.eyes.facts import Eyes
from vtagent.eyes.lookup import eyes_of

__all__ = ["ASSISTANTS", "eyes_for"]

ASSISTANTS = {
    "claude": "claude-opus-4-7",
    "gpt": "gpt-5.6",
    "qwen": "qwen3-vl",
    "gemini": "gemini-3-pro-preview",
}
"""An assistant → the model that it is taken to be. All names are in `vtagent.eyes.known`."""


def eyes_for(name: str) -> Eyes:
    """Returns what is known of the model that an option such as `--for` names.

    Args:
        name: An assistant, "claude", "gpt", "qwen" or "gemini"; or a model, such as "gpt-4o".

    Raises:
        DataError: The model is in no table, so that it is not known what an image costs.
    """
    eyes = eyes_of(ASSISTANTS.get(name.strip().lower(), name), warn=False)
    if not eyes.known:
        raise DataError(
            f"it is not known what an image costs with {name!r:.80}: name {', '.join(ASSISTANTS)} or a model that "
            "`vtagent models` lists"
        )
    return eyes
