"""A model that an OpenAI-compatible server has loaded, as the command line asks it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vtagent.errors import ModelError
from vtagent.models.families import family_by_name
from vtagent.protocol import TOOL_CALL
from vtagent.visual_tokens import VisionSpec

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from openai import OpenAI


def load_served(name: str | None, base_url: str, timeout: float) -> tuple[str, BaseChatModel, VisionSpec]:
    """The model's name, the model, and how it counts visual tokens; without a name, the first that is served.

    Args:
        name: As it is served.
        base_url: Where.
        timeout: Seconds that the server may stay silent; the list is asked for once, an answer twice.

    Raises:
        ModelError: The server lists no model, or does not answer.
    """
    from vtagent.models.openai_server import asking, served_vlm

    if name is None:
        with asking(base_url):
            served = [model.id for model in _client(base_url, timeout).models.list().data or ()]
        if not served:
            raise ModelError(f"the server at {base_url} lists no model; name one with --model")
        name = served[0]
    with asking(base_url):  # its client refuses what cannot be a URL
        model = served_vlm(name, base_url, timeout)
    return name, model, family_by_name(name).vision


def zoom_token_id(options: argparse.Namespace, name: str) -> int | None:
    """The id of the token that --zoom-bias is to raise; None if there is none to raise, or the model knows its own.

    Args:
        options: As `vtagent.options` reads them.
        name: The served model's name. vLLM is asked for the id; other servers do not tell.

    Raises:
        ModelError: The id is neither given nor told, or the server does not answer.
    """
    if not options.base_url or not options.zoom_bias:
        return None
    if options.zoom_token_id is not None:
        return int(options.zoom_token_id)
    import openai

    from vtagent.models.openai_server import asking

    root = options.base_url.rstrip("/").removesuffix("/v1")
    asked = {"model": name, "prompt": TOOL_CALL[0], "add_special_tokens": False}
    with asking(options.base_url):
        try:
            told: Any = _client(options.base_url, options.timeout).post(f"{root}/tokenize", body=asked, cast_to=object)
        except openai.APIStatusError:
            told = None
    match told:
        case {"tokens": [int(token)]}:
            return token
    raise ModelError(
        f"the server at {options.base_url} does not tell the id of a token {TOOL_CALL[0]}; "
        "--zoom-bias needs it: give it with --zoom-token-id"
    )


def _client(base_url: str, timeout: float) -> OpenAI:
    from openai import OpenAI

    from vtagent.models.openai_server import api_key

    return OpenAI(base_url=base_url, api_key=api_key(), max_retries=0, timeout=timeout)
