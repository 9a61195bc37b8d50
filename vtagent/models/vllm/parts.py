"""Samples a reply with a call bias from a server, whose `logit_bias` holds for every token of a request.

The reply is sampled in parts, each with one setting: up to where a call could begin, the token that decides, and the
rest. A part's prompt is the reply's prompt and the parts before it, so the server finds their KV in its prefix cache.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace

from vtagent.models.decision import CallBias, Decision
from vtagent.models.engine import FinishReason, Generation, Request, Sampling

__all__ = ["sample_in_parts"]

Send = Callable[[Request], Awaitable[Generation]]


async def sample_in_parts(request: Request, send: Send, *, end: frozenset[int], context: int | None) -> Generation:
    """Sample one reply whose sampling has a call bias.

    Args:
        request: The request.
        send: Samples a request without a call bias.
        end: Tokens that end every reply, besides the request's own.
        context: Longest prompt plus reply, in tokens. None: not known.

    Raises:
        ModelError: `send` raised it.
    """
    reply = _Reply(request, end | request.sampling.stop, context)
    while reply.finish is None:
        decision = reply.decision
        if decision.place == "decision" and decision.drawn_twice:
            token = await send(reply.part(max_tokens=1))
            if not decision.stands(token.token_ids[0]):
                token = await send(reply.part(max_tokens=1, bias=decision.bias))
            reply.add(token)
        elif decision.place == "decision":
            reply.add(await send(reply.part(bias=decision.bias, watched=True)))
        else:
            reply.add(await send(reply.part(watched=decision.place == "thought")))
    return reply.generation()


class _Reply:
    """A reply that grows by parts.

    Args:
        request: The request of the whole reply.
        end: Tokens that end it.
        context: Longest prompt plus reply, in tokens.
    """

    def __init__(self, request: Request, end: frozenset[int], context: int | None) -> None:
        bias = request.sampling.call_bias
        assert bias is not None
        self.decision = Decision(bias)
        self.finish: FinishReason | None = None
        self._request, self._end, self._context = request, end, context
        self._parts: list[Generation] = []
        self._tokens: list[int] = []
        self._sent = 0
        """Requests that were made."""
        self._shown = 0
        """Tokens that `on_token` was called with."""
        self._stopped = False
        """Whether `on_token` has ended the reply."""

    def part(self, *, max_tokens: int | None = None, bias: CallBias | None = None, watched: bool = False) -> Request:
        """The request of the next part.

        Args:
            max_tokens: Its length in tokens; by default what is left of the reply's.
            bias: Acts on all its tokens.
            watched: Whether the part ends where the reply comes to another place.
        """
        whole = self._request.sampling
        left = whole.max_tokens - len(self._tokens)
        sampling = replace(whole, call_bias=None, max_tokens=max_tokens or left, seed=self._seed(whole))
        on_token = None if max_tokens == 1 else self._on_token(watched)
        if bias is not None:
            biased = {**whole.logit_bias, bias.call_id: whole.logit_bias.get(bias.call_id, 0.0) + bias.value}
            opens_thought = frozenset({bias.thought_id}) if max_tokens == 1 else frozenset[int]()
            sampling = replace(sampling, logit_bias=biased, banned=whole.banned | opens_thought)
        if watched:
            sampling = replace(sampling, stop=whole.stop | self._next_tags())
        self._sent += 1
        return replace(
            self._request,
            token_ids=(*self._request.token_ids, *self._tokens),
            sampling=sampling,
            on_token=on_token,
        )

    def add(self, part: Generation) -> None:
        """Add a part, and decide whether the reply ends with it."""
        self._parts.append(part)
        for token in part.token_ids:
            self._tokens.append(token)
            self.decision.push(token)
            if len(self._tokens) > self._shown:
                self._show(token)
        if self._stopped or self._tokens[-1] in self._end:
            self.finish = "stop"
        elif len(self._tokens) >= self._request.sampling.max_tokens or self._is_full():
            self.finish = "length"

    def generation(self) -> Generation:
        """The whole reply."""
        first = self._parts[0]
        return replace(
            first,
            token_ids=tuple(self._tokens),
            logprobs=tuple(logprob for part in self._parts for logprob in part.logprobs),
            finish_reason=self.finish or "stop",
        )

    def _seed(self, whole: Sampling) -> int | None:
        """A seed for each part: with one for all of them, each would draw the random numbers of the first."""
        if whole.seed is None or not self._sent:
            return whole.seed
        return random.Random(f"{whole.seed}/{self._sent}").getrandbits(62)

    def _next_tags(self) -> frozenset[int]:
        """The tokens at which the reply comes to another place, as far as a tag is one token."""
        bias = self.decision.bias
        inside = self.decision.place == "thought"
        tags = {bias.thought_end_id} if inside else {bias.call_id, bias.answer_id, bias.thought_id}
        return frozenset(tag for tag in tags if tag is not None)

    def _on_token(self, watched: bool) -> Callable[[int], bool] | None:
        """What is called with each token of a part. None: nobody needs them one by one."""
        several = watched and self.decision.place == "thought" and self.decision.bias.thought_end_id is None
        if self._request.on_token is None and not several:
            return None
        ahead = copy(self.decision)

        def watch(token: int) -> bool:
            self._show(token)
            ahead.push(token)
            return self._stopped or (watched and ahead.place != self.decision.place)

        return watch

    def _show(self, token: int) -> None:
        self._shown += 1
        if self._request.on_token is not None and self._request.on_token(token):
            self._stopped = True

    def _is_full(self) -> bool:
        if self._context is None:
            return False
        return self._parts[0].prompt_tokens + len(self._tokens) >= self._context
