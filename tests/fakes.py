"""A scripted engine: it says what the test tells it to say, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from vtagent.errors import ModelError
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Engine, FinishReason, Generation, Request
from vtagent.models.families import tool_template
from vtagent.models.placeholders import expand

if TYPE_CHECKING:
    from vtagent.models.processor import VLProcessor

Script = Iterable[str | Exception] | Callable[[Request, str], str]


class ScriptedEngine(Engine):
    """An engine without a model.

    Args:
        processor: Its tokenizer writes the replies down as ids.
        script: The replies in order, an exception standing for a failure; or a function of the request and its prompt's
            text. Replies end with `<|im_end|>`; a script need not say so.

    Attributes:
        requests: What was asked, in order.
        prompts: The same as text.
    """

    context = 4096

    def __init__(self, processor: VLProcessor, script: Script) -> None:
        self.processor = processor
        self.requests: list[Request] = []
        self.prompts: list[str] = []
        self.closed = False
        self._script = script if callable(script) else iter(script)

    def submit(self, request: Request) -> Future[Generation]:
        """Answer at once, in the caller's thread."""
        future: Future[Generation] = Future()
        try:
            future.set_result(self._reply(request))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Refuse what comes now."""
        self.closed = True

    def _reply(self, request: Request) -> Generation:
        if self.closed:
            raise ModelError("the engine is closed; load the model again")
        tokenizer: Any = self.processor.tokenizer
        prompt = tokenizer.decode(list(request.token_ids), skip_special_tokens=False)
        self.requests.append(request)
        self.prompts.append(prompt)
        said = self._script(request, prompt) if callable(self._script) else next(self._script)
        if isinstance(said, Exception):
            raise said
        ids: list[int] = tokenizer.encode(said, add_special_tokens=False)
        if ids[-1:] != [tokenizer.eos_token_id]:
            ids.append(tokenizer.eos_token_id)
        reason: FinishReason = "stop"
        if len(ids) > request.sampling.max_tokens:
            ids, reason = ids[: request.sampling.max_tokens], "length"
        for place, token in enumerate(ids):
            if request.on_token is not None and request.on_token(token):
                ids, reason = ids[: place + 1], "stop"
                break
        image_token_id = self.processor.image_token_id
        expanded = expand(request.token_ids, request.images, self.processor.vision, image_token_id)
        return Generation(
            token_ids=tuple(ids),
            logprobs=(-0.5,) * len(ids),
            finish_reason=reason,
            prompt_tokens=len(expanded),
            image_tokens=expanded.count(image_token_id),
            prefilled_tokens=len(expanded),
        )


class UnusedEngine(Engine):
    """An engine for a model that never asks it."""

    def submit(self, request: Request) -> Future[Generation]:
        """Fails: nothing may be asked."""
        raise AssertionError("this engine must not be asked")

    def close(self) -> None:
        """Does nothing."""


def scripted_vlm(script: Script, **options: Any) -> ChatVLM:
    """A ChatVLM that says what the script says; its requests are in `model.engine.requests`."""
    from tests.checkpoints import make_processor  # needs torch, which the rest of this module does not

    processor = make_processor("qwen3_vl", chat_template=tool_template())
    engine: Engine = ScriptedEngine(processor, script)
    return ChatVLM(engine=engine, processor=processor, **options)
