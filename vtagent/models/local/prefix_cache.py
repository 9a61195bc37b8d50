"""A radix tree of token prefixes and their KV: what was computed once is found again by any prompt that begins alike.

Every edge holds a run of tokens and their KV, (layers, 2, heads, tokens, head_dim). Image placeholders enter the tree
as numbers made from their image's key, so equal text over different images shares nothing past the first image.
The tree forgets whole least-recently-used leaves when it holds more tokens than it may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class _Node:
    tokens: tuple[int, ...]
    kv: torch.Tensor | None
    parent: _Node | None = None
    children: dict[int, _Node] = field(default_factory=dict)
    used: int = 0


class PrefixCache:
    """KV of past prompts and replies, at most `max_tokens` of them."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._clock = 0
        self._root = _Node((), None)

    def clear(self) -> None:
        """Forget everything, as is needed when the weights have changed."""
        self.tokens = 0
        self._root = _Node((), None)

    def find(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """KV of the longest known prefix of `tokens`, in pieces to be laid one after the other (dim 3)."""
        pieces: list[torch.Tensor] = []
        node, at = self._root, 0
        self._clock += 1
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            child.used = self._clock
            shared = _common(child.tokens, tokens, at)
            assert child.kv is not None
            pieces.append(child.kv[:, :, :, :shared])
            at += shared
            if shared < len(child.tokens):
                break
            node = child
        return pieces

    def insert(self, tokens: Sequence[int], kv: Callable[[int, int], torch.Tensor]) -> None:
        """Keep the KV of `tokens`; `kv(start, end)` copies that part out of where it was computed."""
        if len(tokens) > self.max_tokens:
            return
        node, at = self._root, 0
        self._clock += 1
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                leaf = _Node(tuple(tokens[at:]), kv(at, len(tokens)), node, used=self._clock)
                node.children[tokens[at]] = leaf
                self.tokens += len(leaf.tokens)
                break
            child.used = self._clock
            shared = _common(child.tokens, tokens, at)
            at += shared
            if shared < len(child.tokens) and at < len(tokens):
                child = _split(child, shared)
            node = child
        self._evict()

    def _evict(self) -> None:
        while self.tokens > self.max_tokens:
            leaf = min(self._leaves(), key=lambda node: node.used)
            assert leaf.parent is not None
            del leaf.parent.children[leaf.tokens[0]]
            self.tokens -= len(leaf.tokens)

    def _leaves(self) -> list[_Node]:
        found, stack = [], list(self._root.children.values())
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            if not node.children:
                found.append(node)
        return found


def _common(edge: tuple[int, ...], tokens: Sequence[int], at: int) -> int:
    """How many tokens of `edge` go on in `tokens` from `at`."""
    length = min(len(edge), len(tokens) - at)
    if tuple(tokens[at : at + length]) == edge[:length]:
        return length
    return next(i for i in range(length) if edge[i] != tokens[at + i])


def _split(node: _Node, at: int) -> _Node:
    """Cut an edge in two; returns the upper half, which keeps its place under the parent."""
    assert node.kv is not None
    assert node.parent is not None
    upper = _Node(node.tokens[:at], node.kv[:, :, :, :at].clone(), node.parent, used=node.used)
    node.parent.children[node.tokens[0]] = upper
    node.tokens, node.kv, node.parent = node.tokens[at:], node.kv[:, :, :, at:].clone(), upper
    upper.children[node.tokens[0]] = node
    return upper
