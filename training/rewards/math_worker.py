"""A process that reads lines {"gold": …, "said": …} and writes whether math-verify finds the two expressions equal.

It is a process of its own because math-verify's time limits need a main thread, and because sympy may take any amount
of time and memory on a hostile expression: the parent process can kill it. It is run by path, so that it imports
nothing else of this package.
"""

from __future__ import annotations

import json
import sys

MEMORY = 4 * 2**30
"""Limit of the address space in bytes. An expression that needs more fails; the process lives on."""


def main() -> None:
    """Answer lines until standard input ends."""
    from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    _limit_memory()
    extraction = [LatexExtractionConfig()]
    for line in sys.stdin:
        try:
            pair = json.loads(line)
            # The whole text must be the expression. A parser that searches would read "4 or 5" as 5.
            gold, said = (
                parse(f"${pair[name]}$", extraction, fallback_mode="no_fallback") for name in ("gold", "said")
            )
            equal = bool(gold and said and verify(gold, said))
        except Exception:
            equal = False
        print(json.dumps(equal), flush=True)


def _limit_memory() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
