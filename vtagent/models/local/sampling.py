"""Samples the next token of every row of a batch at once, each row with its own settings and random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from vtagent.models.decision import Decision
from vtagent.models.engine import Sampling

_NUCLEUS = 512
"""Tokens among which a nucleus is looked for first; it is rarely larger, and a sort of the vocabulary is slow."""


class BatchSampler:
    """The settings of a batch's rows as tensors. It is built once and used until the batch changes.

    Args:
        settings: One per row.
        streams: Source of each row's random numbers.
        banned: Tokens that no row samples.
        device: Of the logits.
        decisions: Each row's decision, if it has a call bias. They are followed elsewhere and only read here.
        texts: The tokens of each row so far, for rows with a repetition penalty.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        streams: Sequence[random.Random],
        banned: frozenset[int],
        device: torch.device,
        decisions: Sequence[Decision | None] = (),
        texts: Sequence[Sequence[int]] = (),
    ) -> None:
        self._streams = streams
        self._decisions = [(row, decision) for row, decision in enumerate(decisions) if decision is not None]
        self._drawn = [row for row, own in enumerate(settings) if own.temperature > 0]  # the others are greedy
        temperatures = [own.temperature if own.temperature > 0 else 1.0 for own in settings]
        self._temperature = torch.tensor(temperatures, device=device)[:, None]
        self._ban = _index([(row, token) for row, own in enumerate(settings) for token in own.banned | banned], device)
        bias = [(row, token, value) for row, own in enumerate(settings) for token, value in own.logit_bias.items()]
        self._bias = _index([(row, token) for row, token, _ in bias], device)
        self._bias_values = torch.tensor([value for _, _, value in bias], device=device)
        self._penalized = [row for row, own in enumerate(settings) if own.repetition_penalty != 1]
        penalties = [settings[row].repetition_penalty for row in self._penalized]
        self._penalty = torch.tensor(penalties, device=device)[:, None]
        self._texts = [texts[row] for row in self._penalized]
        self._said: torch.Tensor | None = None  # (penalized rows, vocabulary) bool: tokens that were there before
        self._drawn_index = torch.tensor(self._drawn, device=device, dtype=torch.long)
        cut = [settings[row] for row in self._drawn]
        self._top_k = torch.tensor([own.top_k for own in cut], device=device) if any(own.top_k for own in cut) else None
        self._top_p = (
            torch.tensor([own.top_p for own in cut], device=device) if any(own.top_p < 1 for own in cut) else None
        )

    def __call__(self, logits: torch.Tensor) -> tuple[list[int], list[float]]:
        """Sample one token per row.

        Args:
            logits: (rows, vocabulary), floating point.

        Returns:
            Token ids, and their log-softmax of the unbiased logits / temperature. The log-probability of a row is nan
            if its logits are not finite.
        """
        scaled = logits.float() / self._temperature
        deciding = [(row, decision) for row, decision in self._decisions if decision.place == "decision"]
        again = [(row, decision) for row, decision in deciding if decision.drawn_twice]
        steered = scaled
        if self._ban is not None or self._bias is not None or deciding or self._penalized:
            steered = logits.float().clone()
            if self._penalized:
                steered[self._penalized] = self._with_penalty(steered[self._penalized])
            if self._bias is not None:
                steered.index_put_(self._bias, self._bias_values, accumulate=True)
            for row, decision in deciding:
                if not decision.drawn_twice:
                    steered[row, decision.bias.call_id] += decision.bias.value
            if self._ban is not None:
                steered.index_put_(self._ban, torch.tensor(-torch.inf, device=logits.device))
            steered = steered / self._temperature
        tokens = steered.argmax(-1)
        if self._drawn:
            tokens[self._drawn_index] = self._draw(steered[self._drawn_index], range(len(self._drawn)))
        for row, decision in again:
            if not decision.stands(int(tokens[row])):
                tokens[row] = self._draw_call(steered[row], row, decision)
        if self._said is not None:
            self._said.scatter_(1, tokens[self._penalized][:, None], True)
        logprobs = scaled.gather(-1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)
        return tokens.tolist(), logprobs.tolist()

    def _with_penalty(self, logits: torch.Tensor) -> torch.Tensor:
        """Make the tokens that were there before less likely.

        Args:
            logits: (penalized rows, vocabulary) float32.

        Returns:
            As `logits`.
        """
        if self._said is None:
            self._said = torch.zeros_like(logits, dtype=torch.bool)
            for said, text in zip(self._said, self._texts, strict=True):
                said[torch.tensor(list(text), device=logits.device, dtype=torch.long)] = True
        lower = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
        return torch.where(self._said, lower, logits)

    def _draw_call(self, logits: torch.Tensor, row: int, decision: Decision) -> torch.Tensor:
        """Draw the token of one decision with its bias, and without what opens a thought.

        Args:
            logits: (vocabulary,) float32, divided by the temperature; they are changed.
            row: Whose logits they are.
            decision: The row's decision.

        Returns:
            () int64.
        """
        logits[decision.bias.call_id] += decision.bias.value / self._temperature[row, 0]
        logits[decision.bias.thought_id] = -torch.inf
        if row not in self._drawn:
            return logits.argmax(-1)
        return self._draw(logits[None], [self._drawn.index(row)])[0]

    def _draw(self, logits: torch.Tensor, drawn: Sequence[int]) -> torch.Tensor:
        """Inverse-CDF sampling with one uniform number per row, so that a row does not depend on its batch.

        Args:
            logits: (rows, vocabulary) float32.
            drawn: Which of the drawn rows they are.

        Returns:
            (rows,) int64.
        """
        places = list(drawn)
        ids: torch.Tensor | None = None  # (rows, candidates) int64, ascending; None for the whole vocabulary
        if self._top_k is not None:
            logits, ids = _top_k_candidates(logits, self._top_k[places])
        precise = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        probabilities = logits.to(precise).softmax(-1)
        if self._top_p is not None:
            probabilities = _keep_top_p(probabilities, self._top_p[places])
        uniform = [self._streams[self._drawn[place]].random() for place in places]
        cumulative = probabilities.cumsum(-1)
        target = torch.tensor(uniform, device=logits.device, dtype=cumulative.dtype)[:, None] * cumulative[:, -1:]
        past = (cumulative > target).int().argmax(-1)  # the first token past the target: its probability is above 0
        token = torch.where((cumulative[:, -1:] > target)[:, 0], past, probabilities.argmax(-1))
        return token if ids is None else ids.gather(-1, token[:, None])[:, 0]


def _top_k_candidates(logits: torch.Tensor, top_k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Keep the k largest logits of each row, without a sort of the vocabulary.

    Args:
        logits: (rows, vocabulary) float32.
        top_k: (rows,) int64: k of each row; 0 keeps all.

    Returns:
        (rows, candidates) float32, -inf where a row has fewer; and the tokens that they are, (rows, candidates) int64
        and ascending, or None for the whole vocabulary: one of the rows keeps all.
    """
    vocabulary = logits.shape[-1]
    k = top_k.clamp(max=vocabulary)
    largest = int(k.max())
    values, ids = logits.topk(largest, -1)
    lowest = values.gather(-1, (k - 1).clamp(min=0)[:, None])
    if bool((k == 0).any()):
        lowest = lowest.masked_fill(k[:, None] == 0, -torch.inf)
        return logits.masked_fill(logits < lowest, -torch.inf), None
    ids, order = ids.sort(-1)
    values = values.gather(-1, order)
    return values.masked_fill(values < lowest, -torch.inf), ids


def _keep_top_p(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set all probabilities outside each row's nucleus to 0 (nucleus sampling: arXiv:1904.09751, section 3.1).

    Args:
        probabilities: (rows, candidates) float64.
        top_p: (rows,) float32.

    Returns:
        (rows, candidates) float64, not normalised.
    """
    most = min(_NUCLEUS, probabilities.shape[-1])
    ordered, order = probabilities.topk(most, -1)
    if bool((ordered.sum(-1) < top_p).any()):  # a nucleus is larger
        ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    inside = before < top_p[:, None].clamp(min=1e-9)
    return torch.zeros_like(probabilities).scatter(-1, order, ordered.where(inside, 0.0))


def _index(pairs: Sequence[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(row, token) pairs as two index tensors, (pairs,) int64 each; None without pairs."""
    if not pairs:
        return None
    rows, tokens = zip(*pairs, strict=True)
    return torch.tensor(rows, device=device), torch.tensor(tokens, device=device)
