"""What is written to a vLLM server's `/inference/v1/generate`, and what it answers, checked down to the last token.

A prompt goes out collapsed, one placeholder per image, with its images beside it; the server expands it and says how.
Log-probabilities come back for the raw logits at temperature 1 and are brought to the request's own temperature here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtagent.errors import ModelError
from vtagent.models.engine import FinishReason, Generation, Request, Sampling

_NEVER = -1e4
"""Added to the logits of banned tokens. JSON knows no infinity, and no logit comes near this."""
_TOP = 20
"""How many of the likeliest tokens are asked for where a temperature must be applied here; vLLM's default limit."""
_CLAMPED = -9999.0
"""What vLLM writes for a log-probability that is not a number."""


class Trouble(ModelError):
    """The server failed in a way that another try may mend; the message completes "the vLLM server at … "."""


@dataclass(frozen=True)
class ServedModel:
    """What a server serves."""

    name: str
    context: int | None
    """Prompt and reply together, in tokens; None if it does not tell."""


def served_model(models: Any, name: str | None) -> ServedModel:
    """What `/v1/models` says of the model of this name, or of the first.

    Raises:
        Trouble: it says nothing that can be read.
        ModelError: no such model is served.
    """
    try:
        found = {str(model["id"]): model.get("max_model_len") for model in models["data"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise Trouble(f"gave a list of models that cannot be read ({type(error).__name__}: {error})") from error
    name = name or next(iter(found), None)
    if name not in found:
        raise ModelError(f"the vLLM server does not serve {name!r}; it serves {', '.join(found) or 'nothing'}")
    return ServedModel(name, found[name])


def body(
    request: Request,
    urls: Sequence[str],
    *,
    banned: frozenset[int],
    stop: frozenset[int],
    seed: int | None,
    stream: bool,
    model: str | None,
) -> dict[str, Any]:
    """The JSON of one request; `urls` are its images as data URLs."""
    own = request.sampling
    never = dict.fromkeys(sorted(banned | own.banned), _NEVER)
    sampling: dict[str, Any] = {
        "temperature": own.temperature,
        "top_p": own.top_p,
        "top_k": own.top_k,
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
class ServerReply:
    """What has come of one reply: all at once, or chunk by chunk."""

    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    prompt: list[int] | None = None
    """The prompt as the server has expanded it."""
    cached: int = 0
    """Prompt tokens that the server found in its prefix cache, if it tells (`--enable-prompt-tokens-details`)."""
    weights: tuple[str, ...] = ()
    """The versions of the weights that sampled the tokens; told with the last of them."""
    end: int | None = None
    """Where `on_token` has ended the reply, in tokens."""

    def add(self, chunk: Any) -> list[int]:
        """Take in one chunk, or the whole answer; returns the tokens that are new.

        Raises:
            Trouble: not an answer of this endpoint.
            ModelError: log-probabilities that are not numbers.
        """
        try:
            if chunk.get("prompt_token_ids") is not None:
                self.prompt = [int(token) for token in chunk["prompt_token_ids"]]
            if chunk.get("usage"):
                self.cached = int((chunk["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
            new: list[int] = []
            for choice in chunk["choices"]:
                new += [int(token) for token in choice["token_ids"] or ()]
                told = (choice.get("logprobs") or {}).get("content") or ()
                if [entry["token_id"] for entry in told] != new:
                    raise Trouble("gave log-probabilities of other tokens than it sampled")
                self.logprobs += [_logprob(entry, self.sampling) for entry in told]
                self.finish = choice["finish_reason"] or self.finish
                self.weights += tuple(span["version"] for span in choice.get("weight_versions") or ())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Trouble(f"gave an answer that cannot be read ({type(error).__name__}: {error})") from error
        self.tokens += new
        return new

    def generation(self, expanded: Sequence[int], image_tokens: int, banned: frozenset[int]) -> Generation:
        """The complete reply, if it is one to this very prompt.

        Args:
            expanded: The prompt as our processor expands it.
            image_tokens: How many of its tokens stand for image patches.
            banned: Tokens that must not have been sampled.

        Raises:
            Trouble: it is not complete.
            ModelError: the server has read another prompt, or sampled what was forbidden.
        """
        finish, tokens = ("stop", self.tokens[: self.end]) if self.end is not None else (self.finish, self.tokens)
        if finish not in ("stop", "length") or not tokens:
            raise Trouble(f"broke off after {len(tokens)} tokens (finish reason {finish!r})")
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
    """Whether raw logits are what the log-probabilities are wanted of."""
    return sampling.temperature in (0.0, 1.0)


def _logprob(entry: Mapping[str, Any], sampling: Sampling) -> float:
    """The log-probability of a sampled token at the request's temperature.

    Where that is neither 0 nor 1, p^(1/T) is normalised over the likeliest tokens; what the others add is left out.
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
