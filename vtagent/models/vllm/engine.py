"""VLLMEngine: sends token ids and images to a vLLM server, and returns sampled token ids with log-probabilities.

One thread with an event loop talks to the server, and the server does the batching. Every reply is checked: the server
must have expanded the prompt to the same tokens, and sampled with the expected version of the weights.
"""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import Awaitable, Sequence
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
from vtagent.models.vllm.http import Server
from vtagent.models.vllm.parts import sample_in_parts
from vtagent.models.vllm.weights import Weights
from vtagent.models.vllm.wire import DataURLs, ReplyAccumulator, ServedModel, find_model, request_body

_GENERATE = "/inference/v1/generate"


class VLLMEngine(ReloadableEngine):
    """An engine over a model that `vllm serve --enable-scale-out` has loaded (see docs/serve.md).

    The constructor makes no request. Log-probabilities are exact at temperatures 0 and 1; at others they are
    normalised over the 20 likeliest tokens. `on_token` is called as tokens arrive; after a retry, only with new tokens.

    Args:
        url: The server's URL, with or without `/v1`.
        processor: The served checkpoint's processor (`VLProcessor`).
        model: The model's name on the server; None takes the server's only one.
        context: The server's `--max-model-len` in tokens; None leaves prompts unchecked until `served_model` is called.
        api_key: The key given to `vllm serve --api-key`.
        timeout: Seconds for one try, from the request to the complete answer.
        retries: Tries after the first, for transient failures.
        backoff: Seconds before the second try; doubled before each further one, at most 30.
        concurrency: Maximum number of requests in flight; others wait in this process.

    Raises:
        ModelError: `url` is not an HTTP URL, or the tokenizer has no image token.

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
        self._slots = asyncio.Semaphore(concurrency)
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
        """Accept only replies from these weights, which another process has loaded into the server.

        Args:
            version: As that process's `reload` returned it.
        """
        self._thread.run(self._weights.follow(version)).result()

    def reload(self, path: str | PathLike[str], *, version: str | None = None) -> str:
        """Load a checkpoint into the server. Every request submitted after this call is answered by it alone.

        Requests under way, those of other clients too, first finish with the old weights. The server needs
        `VLLM_SERVER_DEV_MODE=1` and must see the folder under the same path.

        Args:
            path: The checkpoint's folder, as `save_for_server` writes it.
            version: A name for these weights; None makes a unique one from the folder's name.

        Returns:
            The version, for `follow` in other processes.

        Raises:
            ModelError: There are no weights in the folder (nothing has changed); a step failed (replies are refused
                until a reload succeeds); or the weights are loaded, but the server did not resume.
        """
        if not any(Path(path).glob("*.safetensors")):
            raise ModelError(f"there are no weights (*.safetensors) in {fspath(path)}")
        version = version or f"{Path(path).name}-{secrets.token_hex(4)}"
        self._thread.run(self._weights.load(fspath(path), version)).result()
        return version

    def served_model(self) -> ServedModel:
        """Ask the server for the model's name and maximum context length, and set `context`.

        Raises:
            ModelError: The server does not answer, or does not serve the model.
        """
        return self._thread.run(self._served_model()).result()

    def served(self) -> ServedModel:
        """Deprecated name of `served_model`."""
        warnings.warn("VLLMEngine.served is now called VLLMEngine.served_model", DeprecationWarning, stacklevel=2)
        return self.served_model()

    def close(self) -> None:
        """Refuse new requests and fail those under way."""
        self._thread.close(ModelError("the engine was closed before the reply was complete"))

    # Everything below runs in the loop's thread.

    async def _reply(self, request: Request) -> Generation:
        self._checked(request)
        # Taken before the images are encoded: a reload waits for every request that was submitted before it.
        async with self._weights.in_use(), self._slots:
            urls = [await asyncio.to_thread(self._urls.of, image) for image in request.images]

            def send(part: Request) -> Awaitable[Generation]:
                return self._sample(part, urls)

            if request.sampling.call_bias is None:
                return await send(request)
            return await sample_in_parts(request, send, end=self.stop, context=self.context)

    async def _sample(self, request: Request, urls: Sequence[str]) -> Generation:
        """Sample one request, with retries.

        Args:
            request: The request, without a call bias.
            urls: Its images.
        """
        expanded = self._checked(request)
        seed = request.sampling.seed
        if seed is None and request.on_token is not None:
            seed = secrets.randbits(62)  # a retry must repeat the tokens that `on_token` has already been given
        body = request_body(
            request,
            urls,
            banned=self.banned,
            stop=self.stop,
            seed=seed,
            stream=request.on_token is not None,
            model=self._model,
        )
        relay = _TokenRelay(request)

        async def attempt() -> Generation:
            reply = ReplyAccumulator(request.sampling)
            if request.on_token is None:
                reply.add(await self._server.post(_GENERATE, body))
            else:
                await self._stream(body, reply, relay)
            generation = reply.generation(
                expanded, expanded.count(self._image_token_id), self.banned | request.sampling.banned
            )
            self._weights.check(reply.weights)
            return generation

        return await self._server.with_retries(attempt)

    async def _stream(self, body: Any, reply: ReplyAccumulator, relay: _TokenRelay) -> None:
        async with aclosing(self._server.events(_GENERATE, body)) as events:
            async for event in events:
                reply.add(event)
                reply.end = relay.send(reply.tokens)
                if reply.end is not None and not self._weights.pinned:  # the version comes with the last token
                    return

    async def _served_model(self) -> ServedModel:
        async def attempt() -> ServedModel:
            return find_model(await self._server.get("/v1/models"), self._model)

        found = await self._server.with_retries(attempt)
        self.context = found.context
        return found

    def _checked(self, request: Request) -> list[int]:
        """The request's prompt, expanded.

        Raises:
            ModelError: The request is empty, or longer than the context.
        """
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


class _TokenRelay:
    """Passes each token of one reply to `on_token` once, over all tries; a retry must repeat what was passed on.

    Args:
        request: The request whose `on_token` is called.
    """

    def __init__(self, request: Request) -> None:
        self._on_token = request.on_token
        self._sent: list[int] = []
        self._end: int | None = None

    def send(self, tokens: Sequence[int]) -> int | None:
        """Pass on the tokens that are new.

        Args:
            tokens: All tokens of the reply so far.

        Returns:
            The length of the reply if `on_token` has ended it, else None.

        Raises:
            ModelError: The tokens differ from those that a failed try has passed on.
        """
        if list(tokens[: len(self._sent)]) != self._sent[: len(tokens)]:
            raise ModelError("the vLLM server failed, and its second reply is not the one that was begun")
        for token in tokens[len(self._sent) :]:
            if self._end is not None:
                break
            self._sent.append(token)
            if self._on_token is not None and self._on_token(token):
                self._end = len(self._sent)
        return self._end
