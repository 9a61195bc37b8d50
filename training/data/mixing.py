"""Sequences made of other sequences: mixtures of sources in fixed proportions, selections, concatenations.

The order of a mixture is a function of its seed and the place alone. Place 10,000 is computed without the 9,999 places
before it, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from vtagent.errors import DataError
from vtagent.training.data.examples import Example, ExampleSequence, digest_of_images


class Mixture(ExampleSequence):
    """Interleaves the examples of several sources in blocks.

    A block holds each source as often as its weight says and is shuffled on its own. A source that runs out starts
    again in a new order.

    Args:
        parts: The examples of each source.
        weights: How often each source occurs in a block; 1 for a source without a weight.
        seed: Seed of the order.
        length: Number of places. By default long enough for every example of every source.

    Raises:
        DataError: A weight names no source or is below 1, or a source is empty.

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
        self._order = lru_cache(maxsize=4 * len(self.parts))(self._shuffled)

    def __len__(self) -> int:
        return self.length

    def at(self, index: int) -> Example:
        """Read one example; see `ExampleSequence.at`."""
        source, number = self.place(index)
        return self.parts[source][number]

    def place(self, index: int) -> tuple[str, int]:
        """Return the source at `index` and the number of the example within that source."""
        index = range(self.length)[index]
        block_number, offset = divmod(index, len(self._block))
        block = list(self._block)
        random.Random(f"block/{self.seed}/{block_number}").shuffle(block)
        source = block[offset]
        turn = block_number * self.weights[source] + block[:offset].count(source)
        times_through, place = divmod(turn, len(self.parts[source]))
        return source, self._order(source, times_through)[place]

    @property
    def sources(self) -> list[str]:
        """The source at each place, known without reading examples."""
        return [self.place(index)[0] for index in range(self.length)]

    def _shuffled(self, source: str, times_through: int) -> list[int]:
        """The order of a source's examples after it has been gone through so many times."""
        order = list(range(len(self.parts[source])))
        random.Random(f"pass/{self.seed}/{source}/{times_through}").shuffle(order)
        return order


class Part(ExampleSequence):
    """Some examples of another sequence. A slice of it is a `Part` again, and reads nothing.

    Args:
        examples: The other sequence.
        places: The places to take, in order.
    """

    def __init__(self, examples: Sequence[Example], places: Sequence[int]) -> None:
        self._examples, self._places = examples, places

    @property
    def sources(self) -> list[str]:
        """The source of each example; reads examples only if the other sequence has to."""
        known = sources_of(self._examples)
        return [known[place] for place in self._places]

    @property
    def pages(self) -> list[str]:
        """See `ExampleSequence.pages`."""
        known = pages_of(self._examples)
        return [known[place] for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def at(self, index: int) -> Example:
        """Read one example; see `ExampleSequence.at`."""
        return self._examples[self._places[index]]

    def _slice(self, places: range) -> Part:
        return Part(self._examples, [self._places[place] for place in places])


class Joined(ExampleSequence):
    """Several sequences one after the other. A slice of it is a `Part` and reads nothing.

    Args:
        parts: The sequences, in order.
    """

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self._parts = parts
        self._starts = list(accumulate((len(part) for part in parts), initial=0))

    @property
    def sources(self) -> list[str]:
        """The source of each example; reads examples only if one of the sequences has to."""
        return [source for part in self._parts for source in sources_of(part)]

    @property
    def pages(self) -> list[str]:
        """See `ExampleSequence.pages`."""
        return [page for part in self._parts for page in pages_of(part)]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> Example:
        """Read one example; see `ExampleSequence.at`."""
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]

    def _slice(self, places: range) -> Part:
        return Part(self, places)


def by_source(examples: Sequence[Example]) -> dict[str, Part]:
    """Split examples by source and keep their order. An `ExampleSequence` that knows its sources is not read."""
    places: dict[str, list[int]] = {}
    for place, source in enumerate(sources_of(examples)):
        places.setdefault(source, []).append(place)
    return {source: Part(examples, found) for source, found in places.items()}


def mixed(examples: Sequence[Example], weights: Sequence[str], *, seed: int = 0) -> Mixture:
    """Mix the sources of `examples` in the proportions that a command line or a recipe gives.

    Args:
        examples: Examples of several sources.
        weights: "SOURCE=WEIGHT" for each source; "*=WEIGHT" for all sources that are not named. A source without a
            weight is left out.
        seed: Seed of the order.

    Returns:
        The mixture.

    Raises:
        DataError: A weight has another form, or its source does not exist.

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


def pages_of(examples: Sequence[Example]) -> Sequence[str]:
    """The digest of each example's images; reads the examples unless they know."""
    if isinstance(examples, ExampleSequence):
        return examples.pages
    return [digest_of_images(example.images) for example in examples]


def held_out(examples: Sequence[Example], share: float, *, seed: int = 0) -> tuple[Part, Part]:
    """Split examples into those to train on and those to measure on. No page is in both.

    Args:
        examples: All examples.
        share: Share of the examples to measure on, above 0 and below 1; about that, since pages stay whole.
        seed: Decides which.

    Returns:
        The examples to train on, and those to measure on; each in its old order.

    Raises:
        DataError: There is only one page.
    """
    pages = pages_of(examples)
    order = sorted(set(pages))
    if len(order) < 2:
        raise DataError(
            f"{len(pages)} questions about {len(order)} page: none can be held out; set held_out: 0, or name eval_data"
        )
    random.Random(f"held out/{seed}").shuffle(order)
    wanted, chosen, count = share * len(pages), set[str](), 0
    held = Counter(pages)
    for page in order[:-1]:
        if count >= wanted:
            break
        chosen.add(page)
        count += held[page]
    places = range(len(pages))
    return (
        Part(examples, [place for place in places if pages[place] not in chosen]),
        Part(examples, [place for place in places if pages[place] in chosen]),
    )


def sources_of(examples: Sequence[Example]) -> Sequence[str]:
    """The source of each example. Examples are read unless they are an `ExampleSequence` that knows its sources."""
    if isinstance(examples, ExampleSequence):
        return examples.sources
    return [example.source for example in examples]
