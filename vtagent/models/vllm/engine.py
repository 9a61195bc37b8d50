"""VLLMEngine: token ids and images to a vLLM server, sampled token ids and their log-probabilities back.

One thread with an event loop talks to the server; the server does the batching. The prompt that the server has expanded
is compared with ours token by token, and every reply with the version of the weights that it must come from.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import aclosing
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from vtagent.errors import ModelError
from vtagent.models.codec import Codec, never_sampled
from vtagent.models.engine import Generation, ReloadableEngine, Request
from vtagent.models.loop_thread import LoopThread
from vtagent.models.placeholders import expand
from vtagent.models.vllm.data_urls import DataURLs
from vtagent.models.vllm.http import Server
from vtagent.models.vllm.weights import Weights
from vtagent.models.vllm.wire import ServedModel, ServerReply, body, served_model

_GENERATE = "/inference/v1/generate"


class VLLMEngine(ReloadableEngine):
    """An engine whose model is in a `vllm serve` of its own (started with `--enable-scale-out`; see docs/serve.md).

    Making one asks the server nothing. Log-probabilities are exact at temperatures 0 and 1; at others they are
    normalised over the 20 likeliest tokens. `on_token` is called as tokens arrive; if a reply has to be tried anew, it
    hears only of what is new.

    Args:
        url: Where the server listens, with or without `/v1`.
        processor: The served checkpoint's processor (`VLProcessor`).
        model: The name that it is served under; None takes whatever is served.
        context: The server's `--max-model-len`, if it is to be known beforehand; `served` finds it out.
        api_key: What the server was given with `--api-key`.
        timeout: Seconds in which one try must have its complete answer.
        retries: Tries after the first, where another one may help.
        backoff: Seconds before the second try, doubled before each further one, at most 30.
        concurrency: Requests that are with the server at one time; more wait here.

    Raises:
        ModelError: no URL, or a processor without an image token.

    Example:
        >>> processor = VLProcessor.from_pretrained("Qwen/Qwen3-VL-8B-Instruct")  # doctest: +SKIP
        >>> engine = VLLMEngine("http://127.0.0.1:8000", processor)  # doctest: +SKIP
        >>> model = ChatVLM(engine=engine, processor=processor)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        processor: Any,
        *,
        model: str | None = None,
        context: int | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 0.5,
        concurrency: int = 256,
    ) -> None:
        codec = Codec(processor.tokenizer, processor.chat_template)
        self.context = context
        self.banned = never_sampled(processor.tokenizer)
        self.stop = codec.end_ids
        self._vision, self._image_token_id = processor.vision, codec.image_token_id
        self._server = Server(url, api_key=api_key, timeout=timeout, retries=retries, backoff=backoff)
        self._weights = Weights(self._server)
        self._model = model
        self._places = asyncio.Semaphore(concurrency)
        self._urls = DataURLs()
        self._thread = LoopThread(
            "vtagent-vllm", at_end=self._server.close, closed="the engine is closed; make a new one"
        )

    def submit(self, request: Request) -> Future[Generation]:
        """Queue one request; see `Engine.submit`."""
        return self._thread.run(self._reply(request))

    @property
    def weights(self) -> str | None:
        """The version of the weights that every reply must come from; None until the first reply has named one."""
        return self._weights.expected

    def follow(self, version: str) -> None:
        """Accept replies of these weights only, which another process has loaded."""
        self._thread.run(self._weights.follow(version)).result()

    def reload(self, path: str | PathLike[str], *, version: str | None = None) -> str:
        """Load a checkpoint into the server, so that every request submitted from now on is served by it alone.

        Requests under way end with the old weights first, those of other clients too. The server needs
        `VLLM_SERVER_DEV_MODE=1`, and sees the folder under the same path.

        Args:
            path: The checkpoint's folder, as `save_for_server` writes it.
            version: A name for these weights; the folder's, made unique, if absent.

        Returns:
            The version, for `follow` in other processes.

        Raises:
            ModelError: a step failed. Replies are then refused until a reload succeeds. Or the weights are loaded, but
                the server still pauses. Or there are no weights in the folder, and nothing has changed.
        """
        if not any(Path(path).glob("*.safetensors")):
            raise ModelError(f"there are no weights (*.safetensors) in {fspath(path)}")
        version = version or f"{Path(path).name}-{secrets.token_hex(4)}"
        self._thread.run(self._weights.load(fspath(path), version)).result()
        return version

    def served_model(self) -> ServedModel:
        """Ask what is served: its name and the longest context. `context` is known from then on.

        Raises:
            ModelError: no answer, or nothing is served there.
        """
        return self._thread.run(self._served()).result()

    def close(self) -> None:
        """Refuse new requests and fail those under way."""
        self._thread.close(ModelError("the engine was closed before the reply was complete"))

    # Below here everything runs in the loop's thread.

    async def _reply(self, request: Request) -> Generation:
        expanded = self._checked(request)
        seed = request.sampling.seed
        if seed is None and request.on_token is not None:
            seed = secrets.randbits(62)  # so that a second try says again what was already shown
        # Its turn comes first: a reload waits for all that was submitted before, also where images are still encoded.
        async with self._weights.in_use(), self._places:
            asked = body(
                request,
                [await asyncio.to_thread(self._urls.of, image) for image in request.images],
                banned=self.banned,
                stop=self.stop,
                seed=seed,
                stream=request.on_token is not None,
                model=self._model,
            )
            shown = _Shown(request)

            async def attempt() -> Generation:
                reply = ServerReply(request.sampling)
                if request.on_token is None:
                    reply.add(await self._server.post(_GENERATE, asked))
                else:
                    await self._stream(asked, reply, shown)
                generation = reply.generation(
                    expanded, expanded.count(self._image_token_id), self.banned | request.sampling.banned
                )
                self._weights.check(reply.weights)
                return generation

            return await self._server.patiently(attempt)

    async def _stream(self, asked: Any, reply: ServerReply, shown: _Shown) -> None:
        async with aclosing(self._server.events(_GENERATE, asked)) as events:
            async for event in events:
                reply.add(event)
                reply.end = shown.show(reply.tokens)
                if reply.end is not None and not self._weights.pinned:  # their version comes at the very end
                    return

    async def _served(self) -> ServedModel:
        async def attempt() -> ServedModel:
            return served_model(await self._server.get("/v1/models"), self._model)

        found = await self._server.patiently(attempt)
        self.context = found.context
        return found

    def _checked(self, request: Request) -> list[int]:
        """The request's prompt, expanded."""
        if not request.token_ids:
            raise ModelError("the prompt is empty; send at least one message")
        if request.sampling.max_tokens < 1:
            raise ModelError(f"max_tokens is {request.sampling.max_tokens}; ask for at least one token")
        expanded = expand(request.token_ids, request.images, self._vision, self._image_token_id)
        if self.context is not None and len(expanded) >= self.context:
            raise ModelError(
                f"the prompt has {len(expanded)} tokens, but the model's context ends at {self.context}, reply included"
            )
        return expanded


class _Shown:
    """What `on_token` was told of one reply. A second try tells only what is new, and must agree with the first."""

    def __init__(self, request: Request) -> None:
        self._tell = request.on_token
        self._told: list[int] = []
        self._end: int | None = None

    def show(self, tokens: Sequence[int]) -> int | None:
        """Tell what is new of the reply so far; returns its length if `on_token` has ended it."""
        if list(tokens[: len(self._told)]) != self._told[: len(tokens)]:
            raise ModelError("the vLLM server failed, and its second reply is not the one that was begun")
        for token in tokens[len(self._told) :]:
            if self._end is not None:
                break
            self._told.append(token)
            if self._tell is not None and self._tell(token):
                self._end = len(self._told)
        return self._end
