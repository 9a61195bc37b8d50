"""The JSON of vLLM's `/inference/v1/generate`: writes a request, reads an answer and checks it token by token.

A prompt is sent collapsed, one placeholder per image, with its images beside it; the server returns it expanded.
Log-probabilities come back for the raw logits at temperature 1 and are rescaled here to the request's temperature.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtagent.errors import ModelError
from vtagent.lru import LRU
from vtagent.models.engine import EngineImage, FinishReason, Generation, Request, Sampling
from vtagent.models.placeholders import identity
from vtagent.views import data_url

_NEVER = -1e4
"""Added to the logits of banned tokens: JSON has no infinity, and no logit comes near this."""
_TOP = 20
"""Number of likeliest tokens to request when log-probabilities must be rescaled here; vLLM's default limit."""
_CLAMPED = -9999.0
"""vLLM writes this for a log-probability that is not a number."""


class TransientError(ModelError):
    """The server failed, and another try may succeed; the text continues "the vLLM server at … "."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server has loaded."""

    name: str
    """Its name on the server."""
    context: int | None
    """Maximum length of prompt and reply together, in tokens; None if the server does not tell."""


def find_model(models: Any, name: str | None) -> ServedModel:
    """Find a model in the answer of `/v1/models`.

    Args:
        models: The answer's JSON.
        name: The model's name on the server; None takes the first.

    Raises:
        TransientError: The answer cannot be read.
        ModelError: No such model is served.
    """
    try:
        found = {str(model["id"]): model.get("max_model_len") for model in models["data"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise TransientError(f"gave a list of models that cannot be read ({type(error).__name__}: {error})") from error
    name = name or next(iter(found), None)
    if name not in found:
        raise ModelError(f"the vLLM server does not serve {name!r}; it serves {', '.join(found) or 'nothing'}")
    return ServedModel(name, found[name])


def request_body(
    request: Request,
    urls: Sequence[str],
    *,
    banned: frozenset[int],
    stop: frozenset[int],
    seed: int | None,
    stream: bool,
    model: str | None,
) -> dict[str, Any]:
    """Write one request as JSON.

    Args:
        request: The prompt, its images and its sampling options.
        urls: The request's images as data URLs, in order.
        banned: Tokens that are never sampled, besides the request's own.
        stop: Tokens that end the reply, besides the request's own.
        seed: Of the sampling; None leaves it to the server. vLLM takes the lower 63 bits.
        stream: Whether the answer shall be server-sent events.
        model: The model's name on the server; None takes the server's only one.
    """
    own = request.sampling
    never = dict.fromkeys(sorted(banned | own.banned), _NEVER)
    sampling: dict[str, Any] = {
        "temperature": own.temperature,
        "top_p": own.top_p,
        "top_k": own.top_k,
        "repetition_penalty": own.repetition_penalty,
        "max_tokens": own.max_tokens,
        "stop_token_ids": sorted(stop | own.stop),
        "logit_bias": {**own.logit_bias, **never},
        "logprobs": 0 if _is_raw(own) else _TOP,
        "detokenize": False,
    }
    if seed is not None:
        sampling["seed"] = seed & 0x7FFF_FFFF_FFFF_FFFF
    out: dict[str, Any] = {
        "token_ids": list(request.token_ids),
        "sampling_params": sampling,
        "return_token_ids": True,
    }
    if urls:
        out["content_parts"] = [{"type": "image_url", "url": url} for url in urls]
    if model is not None:
        out["model"] = model
    if stream:
        out |= {"stream": True, "stream_options": {"include_usage": True}}
    return out


@dataclass
class ReplyAccumulator:
    """Collects one reply from the chunks of a stream, or from one complete answer."""

    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    prompt: list[int] | None = None
    """The prompt as the server expanded it."""
    cached: int = 0
    """Prompt tokens found in the server's prefix cache; 0 without `--enable-prompt-tokens-details`."""
    weights: tuple[str, ...] = ()
    """The versions of the weights that sampled the tokens; the server sends them with the last token."""
    end: int | None = None
    """Length of the reply in tokens, if `on_token` has ended it."""

    def add(self, chunk: Any) -> list[int]:
        """Add one chunk, or the complete answer.

        Args:
            chunk: Its JSON.

        Returns:
            The new tokens.

        Raises:
            TransientError: The chunk cannot be read.
            ModelError: A log-probability is not a number.
        """
        try:
            if chunk.get("prompt_token_ids") is not None:
                self.prompt = [int(token) for token in chunk["prompt_token_ids"]]
            if chunk.get("usage"):
                self.cached = int((chunk["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            new: list[int] = []
            for choice in chunk["choices"]:
                new += [int(token) for token in choice["token_ids"] or ()]
                entries = (choice.get("logprobs") or {}).get("content") or ()
                if [entry["token_id"] for entry in entries] != new:
                    raise TransientError("gave log-probabilities of other tokens than it sampled")
                self.logprobs += [_logprob(entry, self.sampling) for entry in entries]
                self.finish = choice["finish_reason"] or self.finish
                self.weights += tuple(span["version"] for span in choice.get("weight_versions") or ())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TransientError(f"gave an answer that cannot be read ({type(error).__name__}: {error})") from error
        self.tokens += new
        return new

    def generation(self, expanded: Sequence[int], image_tokens: int, banned: frozenset[int]) -> Generation:
        """Check that the reply is complete and answers exactly this prompt, and return it.

        Args:
            expanded: The prompt as the local processor expands it.
            image_tokens: Number of its tokens that stand for image patches.
            banned: Tokens that must not have been sampled.

        Raises:
            TransientError: The reply is not complete.
            ModelError: The server has read another prompt, or sampled a banned token.
        """
        finish, tokens = ("stop", self.tokens[: self.end]) if self.end is not None else (self.finish, self.tokens)
        if finish not in ("stop", "length") or not tokens:
            raise TransientError(f"broke off after {len(tokens)} tokens (finish reason {finish!r})")
        if self.prompt != list(expanded):
            theirs = "no" if self.prompt is None else str(len(self.prompt))
            raise ModelError(
                f"the vLLM server has read {theirs} prompt tokens where {len(expanded)} were meant, {image_tokens} of "
                "them of images; it must serve the checkpoint that the processor is of, with the same image sizes"
            )
        if bad := banned.intersection(tokens):
            raise ModelError(f"the vLLM server has sampled tokens that are banned ({sorted(bad)})")
        reason: FinishReason = "stop" if finish == "stop" else "length"
        return Generation(
            token_ids=tuple(tokens),
            logprobs=tuple(self.logprobs[: len(tokens)]),
            finish_reason=reason,
            prompt_tokens=len(expanded),
            image_tokens=image_tokens,
            prefilled_tokens=len(expanded) - min(self.cached, len(expanded)),
        )


def _is_raw(sampling: Sampling) -> bool:
    """Whether the server's log-probabilities need no rescaling: they are those of the raw logits."""
    return sampling.temperature in (0.0, 1.0)


def _logprob(entry: Mapping[str, Any], sampling: Sampling) -> float:
    """The log-probability of a sampled token at the request's temperature T.

    If T is neither 0 nor 1, p^(1/T) is normalised over the likeliest tokens; the other tokens' share is neglected.

    Args:
        entry: The token's entry in the answer's `logprobs`.
        sampling: The request's sampling options.

    Raises:
        ModelError: The log-probability is not a number.
    """
    raw = float(entry["logprob"])
    if raw <= _CLAMPED or math.isnan(raw):
        raise ModelError("the model's output is not a number; its weights or its dtype are at fault")
    if _is_raw(sampling):
        return raw
    scaled = {int(other["token_id"]): float(other["logprob"]) / sampling.temperature for other in entry["top_logprobs"]}
    scaled[int(entry["token_id"])] = raw / sampling.temperature
    highest = max(scaled.values())
    return raw / sampling.temperature - highest - math.log(sum(math.exp(value - highest) for value in scaled.values()))


class DataURLs:
    """Data URLs of images, up to a number of characters. Thread-safe.

    Args:
        limit: Maximum total length of the URLs that are kept, in characters.
    """

    def __init__(self, limit: int = 64 * 2**20) -> None:
        self._urls: LRU[str, str] = LRU(limit, size=len)
        self._lock = threading.Lock()

    def of(self, image: EngineImage) -> str:
        """The data URL of an image."""
        key = identity(image)
        with self._lock:
            url = self._urls.get(key)
        if url is None:
            url = data_url(image.pixels)
            with self._lock:
                self._urls.put(key, url)
        return url
