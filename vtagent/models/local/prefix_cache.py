"""A radix tree of token prefixes and their KV: a prompt reuses the KV of the longest known prefix.

Every edge holds a run of tokens and their KV. Image placeholders enter the tree as numbers made from their image's key,
so equal texts with different images share nothing from the first image on. Above its bound, the tree drops the least
recently used leaves. (SGLang's RadixAttention: arXiv:2312.07104, section 3.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class _Node:
    tokens: tuple[int, ...]
    """Of the edge that leads here."""
    kv: torch.Tensor | None
    """Their KV, (layers, 2, heads, tokens, head_dim) in the dtype of the weights; None at the root."""
    parent: _Node | None = None
    children: dict[int, _Node] = field(default_factory=dict)
    """By the first token of their edge."""
    used: int = 0
    """When it was last used, by the tree's clock."""


class PrefixCache:
    """KV of past prompts and replies.

    Args:
        max_tokens: Bound on the tokens whose KV is kept.

    Attributes:
        tokens: Tokens whose KV is kept now.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self._clock = 0
        self._root = _Node((), None)

    def clear(self) -> None:
        """Drop everything. Call it when the weights have changed."""
        self.tokens = 0
        self._root = _Node((), None)

    def find(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """Find the KV of the longest known prefix of `tokens`.

        Returns:
            Pieces to be joined along dimension 3: (layers, 2, heads, tokens, head_dim) each, in the dtype of the
            weights. They are views of what the tree holds.
        """
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
        """Keep the KV of `tokens`.

        Args:
            tokens: A prompt, or a prompt with its reply. More than `max_tokens` are not kept.
            kv: `kv(start, end)` returns a copy of the KV of these tokens: (layers, 2, heads, end - start, head_dim), in
                the dtype of the weights. It is called for tokens that are not in the tree yet.
        """
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
        self.shrink(self.max_tokens)

    def shrink(self, tokens: int) -> None:
        """Drop the least recently used leaves until no more than `tokens` are kept."""
        while self.tokens > max(0, tokens):
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
    """How many tokens `edge` and `tokens[at:]` have in common at their start."""
    length = min(len(edge), len(tokens) - at)
    if tuple(tokens[at : at + length]) == edge[:length]:
        return length
    return next(i for i in range(length) if edge[i] != tokens[at + i])


def _split(node: _Node, at: int) -> _Node:
    """Cut an edge after `at` tokens, and return the upper half, which takes the node's place under its parent."""
    assert node.kv is not None
    assert node.parent is not None
    upper = _Node(node.tokens[:at], node.kv[:, :, :, :at].clone(), node.parent, used=node.used)
    node.parent.children[node.tokens[0]] = upper
    node.tokens, node.kv, node.parent = node.tokens[at:], node.kv[:, :, :, at:].clone(), upper
    upper.children[node.tokens[0]] = node
    return upper
