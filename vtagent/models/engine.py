"""An engine turns token ids and images into sampled token ids, and this module is all that its callers may rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one reply are chosen."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this probability. 1 keeps all."""
    top_k: int = 0
    """Keep the k likeliest tokens. 0 keeps all."""
    max_tokens: int = 512
    """The reply ends here with finish reason "length"."""
    seed: int | None = None
    """Two requests with one seed and one prompt sample the same reply, whatever they are batched with."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the raw logits of these tokens before they are divided by the temperature."""
    banned: frozenset[int] = frozenset()
    """Tokens that are never sampled, besides those that the engine itself bans."""
    stop: frozenset[int] = frozenset()
    """A sampled token out of this set is kept and ends the reply with finish reason "stop"."""


@dataclass(frozen=True)
class EngineImage:
    """One image of a prompt."""

    key: str
    """Equal keys mean equal pixels: caches of image features and of KV are looked up by it."""
    pixels: Image.Image
    """RGB, already at the size that the model shall see (one that the processor leaves as it is)."""


@dataclass(frozen=True)
class Request:
    """One reply to sample."""

    token_ids: tuple[int, ...]
    """The prompt, collapsed: one image placeholder per image. The engine expands it."""
    images: tuple[EngineImage, ...] = ()
    """As many as there are placeholders, in their order."""
    sampling: Sampling = Sampling()
    on_token: Callable[[int], bool | None] | None = None
    """Called in the engine's thread with each sampled token; returning True ends the reply (finish reason "stop")."""


@dataclass(frozen=True)
class Generation:
    """One sampled reply."""

    token_ids: tuple[int, ...]
    """What was sampled, the stop token included."""
    logprobs: tuple[float, ...]
    """One per token: log-softmax of the unbiased logits / temperature (1 when greedy) over the whole vocabulary."""
    finish_reason: FinishReason
    prompt_tokens: int
    """Length of the prompt with its images expanded."""
    image_tokens: int
    """How many of those stand for image patches."""
    prefilled_tokens: int
    """How many of the prompt's tokens were computed for this request; the others' KV was found in the cache."""


@runtime_checkable
class Engine(Protocol):
    """Anything that can serve requests: local weights, a server, or the weights of a running training."""

    def submit(self, request: Request) -> Future[Generation]:
        """Queue one request. Never blocks. Cancelling the future frees its place.

        The future raises ModelError for a request that cannot be served (empty or over-long prompt, closed engine, …).
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """Serve several requests together and wait for all.

        Raises:
            ModelError: one of them failed. The others were still served.
        """
        ...

    def close(self) -> None:
        """Refuse new requests and fail those under way. Safe to call twice."""
        ...
