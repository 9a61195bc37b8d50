"""The contract between an engine and its callers: token ids and images in, sampled token ids out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Literal

from vtagent.models.decision import CallBias

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from PIL import Image

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one reply are chosen."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling: keep the smallest set of tokens with at least this probability. 1 keeps all."""
    top_k: int = 0
    """Keep the k most likely tokens. 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides the positive raw logits of tokens that the prompt or the reply has, and multiplies their negative ones,
    before any bias (CTRL, arXiv:1909.05858, section 4.1). 1 is none."""
    max_tokens: int = 512
    """Maximum length of the reply in tokens; a reply that reaches it has finish reason "length"."""
    seed: int | None = None
    """Requests with the same seed and prompt sample the same reply, whatever else is in the batch."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the raw logits of these tokens before the division by the temperature."""
    call_bias: CallBias | None = None
    """Added to the logit of a call at the decision alone."""
    banned: frozenset[int] = frozenset()
    """Tokens that are never sampled, in addition to those that the engine itself bans."""
    stop: frozenset[int] = frozenset()
    """A sampled token from this set is kept and ends the reply with finish reason "stop"."""


@dataclass(frozen=True)
class EngineImage:
    """One image of a prompt."""

    key: str
    """Equal keys mean equal pixels. Image features and KV are cached under it."""
    pixels: Image.Image
    """RGB, already at the size that the model sees: the processor does not resize it."""


@dataclass(frozen=True)
class Request:
    """One reply to sample."""

    token_ids: tuple[int, ...]
    """The prompt, collapsed: one image placeholder per image. The engine expands it."""
    images: tuple[EngineImage, ...] = ()
    """One image per placeholder, in the order of the placeholders."""
    sampling: Sampling = Sampling()
    on_token: Callable[[int], bool | None] | None = None
    """Called in the engine's thread with each sampled token. Returning True ends the reply (finish reason "stop")."""


@dataclass(frozen=True)
class Generation:
    """One sampled reply."""

    token_ids: tuple[int, ...]
    """The sampled tokens, including the stop token."""
    logprobs: tuple[float, ...]
    """One per token: log-softmax of the unbiased logits / temperature (1 when greedy) over the whole vocabulary."""
    finish_reason: FinishReason
    prompt_tokens: int
    """Length of the prompt with its images expanded, in tokens."""
    image_tokens: int
    """Tokens of the prompt that stand for image patches."""
    prefilled_tokens: int
    """Tokens of the prompt that were computed for this request. The KV of the others came from a cache."""


class Engine(ABC):
    """Serves requests: from local weights, from a server, or from the weights of a running training.

    A subclass writes `submit` and `close`, and overrides the other members where it can do better.
    """

    context: int | None = None
    """Longest prompt plus reply, in tokens. None: not known."""

    @abstractmethod
    def submit(self, request: Request) -> Future[Generation]:
        """Queue one request. Never blocks. Cancelling the future frees its place.

        The future raises ModelError for a request that cannot be served (empty or over-long prompt, closed engine, …).
        """

    @abstractmethod
    def close(self) -> None:
        """Refuse new requests and fail those in progress. Safe to call twice."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Serve several requests together and wait for all of them.

        Returns:
            One generation per request, in their order.

        Raises:
            ModelError: One of them failed. The others were still served.
        """
        futures = [self.submit(request) for request in requests]
        wait(futures)
        return [future.result() for future in futures]

    def announce(self) -> AbstractContextManager[None]:
        """Announce that a request is being prepared, and submit it inside the block.

        An engine may delay a batch for a short time until the announced requests are there. By default it does not.
        """
        return nullcontext()

    def forget(self) -> None:  # noqa: B027 - an engine without caches has nothing to do
        """Drop what was computed with the present weights. Call it after the weights have changed.

        By default an engine has no cache to drop.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReloadableEngine(Engine):
    """An engine with weights of its own that can load other checkpoints while it runs, such as a vLLM server."""

    @abstractmethod
    def reload(self, path: str | PathLike[str], *, version: str | None = None) -> str:
        """Serve another checkpoint from now on.

        Args:
            path: The checkpoint's folder.
            version: A name for its weights; made from the folder's name if absent.

        Returns:
            The version, for `follow` in other processes.

        Raises:
            ModelError: The checkpoint could not be loaded.
        """

    @abstractmethod
    def follow(self, version: str) -> None:
        """Accept only replies of these weights, which another process has loaded.

        Args:
            version: What `reload` returned there.
        """
