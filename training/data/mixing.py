"""Questions of several sources in fixed proportions, in an order that is a function of the seed and the place alone.

Every block of the order holds each source as often as its weight says, in an order of its own; a source that runs out
starts again, shuffled anew. Place 10,000 is found without walking the 9,999 before it, so a run that was interrupted
goes on where it was.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import overload

from vtagent.errors import DataError
from vtagent.training.data.examples import Example


class Mixture(Sequence[Example]):
    """Examples of several sources, interleaved.

    Args:
        parts: The examples of each source.
        weights: How many of each source stand in one block; 1 where it does not say.
        seed: Another seed, another order.
        length: How many places there are; by default so many that every example of every source comes up.

    Raises:
        DataError: A weight for no source, a weight below 1, or an empty source.

    Example:
        >>> mixture = Mixture({"large print": large, "small print": small}, {"large print": 2}, seed=0)
        >>> [example.source for example in mixture[:3]]
        ['small print', 'large print', 'large print']
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[Example]],
        weights: Mapping[str, int] | None = None,
        *,
        seed: int = 0,
        length: int | None = None,
    ) -> None:
        self.parts = dict(parts)
        weights = dict(weights or {})
        if unknown := sorted(weights.keys() - self.parts.keys()):
            raise DataError(f"a weight for {unknown[0]!r}, which is no source; there are {', '.join(sorted(parts))}")
        self.weights = {name: weights.get(name, 1) for name in self.parts}
        for name, part in self.parts.items():
            if self.weights[name] < 1 or not len(part):
                fault = "no examples" if not len(part) else f"a weight of {self.weights[name]}; it must be at least 1"
                raise DataError(f"source {name!r} has {fault}")
        self.seed = seed
        self._block = [name for name, weight in self.weights.items() for _ in range(weight)]
        if not self._block:
            raise DataError("nothing to mix")
        blocks = max(-(-len(part) // self.weights[name]) for name, part in self.parts.items())
        self.length = blocks * len(self._block) if length is None else length
        self._order = lru_cache(maxsize=4 * len(self.parts))(self._pass)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        source, row = self.place(index)
        return self.parts[source][row]

    def place(self, index: int) -> tuple[str, int]:
        """Which row of which source stands at this place."""
        index = range(self.length)[index]
        number, offset = divmod(index, len(self._block))
        block = list(self._block)
        random.Random(f"block/{self.seed}/{number}").shuffle(block)
        source = block[offset]
        turn = number * self.weights[source] + block[:offset].count(source)
        again, at = divmod(turn, len(self.parts[source]))
        return source, self._order(source, again)[at]

    @property
    def sources(self) -> list[str]:
        """The source at each place."""
        return [self.place(index)[0] for index in range(self.length)]

    def _pass(self, source: str, again: int) -> list[int]:
        """The order of a source's rows when it is gone through for the n-th time."""
        order = list(range(len(self.parts[source])))
        random.Random(f"pass/{self.seed}/{source}/{again}").shuffle(order)
        return order


class Part(Sequence[Example]):
    """Some of the examples of another sequence, read when asked for."""

    def __init__(self, examples: Sequence[Example], places: Sequence[int]) -> None:
        self._examples, self._places = examples, places

    @property
    def sources(self) -> list[str]:
        """The source of each example."""
        known = sources_of(self._examples)
        return [known[place] for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return Part(self._examples, self._places[index])
        return self._examples[self._places[index]]


def by_source(examples: Sequence[Example]) -> dict[str, Part]:
    """The examples of each source, in their order; pictures are not read where the sequence knows its `sources`."""
    places: dict[str, list[int]] = {}
    for place, source in enumerate(sources_of(examples)):
        places.setdefault(source, []).append(place)
    return {source: Part(examples, found) for source, found in places.items()}


class Joined(Sequence[Example]):
    """Several sequences as one, in their order."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self._parts = parts
        self._starts = list(accumulate((len(part) for part in parts), initial=0))

    @property
    def sources(self) -> list[str]:
        """The source of each example."""
        return [source for part in self._parts for source in sources_of(part)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return Part(self, range(*index.indices(len(self))))
        place = range(len(self))[index]
        part = bisect_right(self._starts, place) - 1
        return self._parts[part][place - self._starts[part]]


def mixed(examples: Sequence[Example], weights: Sequence[str], *, seed: int = 0) -> Mixture:
    """The sources of these examples in the proportions named, as on a command line or in a recipe.

    Args:
        examples: Of several sources.
        weights: "SOURCE=WEIGHT" for each; "*=WEIGHT" stands for all that are not named. Sources without a weight are
            left out.
        seed: Of the order.

    Raises:
        DataError: Something else, or a source that is not there.

    Example:
        >>> sources = mixed(open_examples("rendered"), ["large print=2", "small print=1"]).sources
        >>> sources.count("large print") == 2 * sources.count("small print")
        True
    """
    parts = by_source(examples)
    named: dict[str, int] = {}
    for pair in weights:
        source, _, weight = pair.rpartition("=")
        if not source or not weight.isdecimal() or source in named:
            raise DataError(f"mix {pair!r}: write SOURCE=WEIGHT, each source once, the weight a whole number")
        if source != "*" and source not in parts:
            raise DataError(f"mix {pair!r}: there is no such source; there are {', '.join(sorted(parts))}")
        named[source] = int(weight)
    rest = named.pop("*", None)
    if rest is not None:
        named = {source: named.get(source, rest) for source in parts}
    return Mixture({source: parts[source] for source in named}, named, seed=seed)


def sources_of(examples: Sequence[Example]) -> Sequence[str]:
    """The source of each; examples are read only where the sequence does not know its `sources`."""
    known: Sequence[str] | None = getattr(examples, "sources", None)
    return known if known is not None else [example.source for example in examples]
