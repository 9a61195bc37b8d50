"""Says for each line of standard input, {"gold": …, "said": …}, whether math-verify finds the two expressions equal.

A process of its own, because math-verify's time limits need a main thread, and because sympy on a hostile expression
may use any amount of time and memory: whoever started it can kill it. Run by path, so that it loads nothing of ours.
"""

from __future__ import annotations

import json
import sys

MEMORY = 4 * 2**30
"""Bytes of address space; an expression that wants more fails alone."""


def main() -> None:
    """Serve until standard input ends."""
    from math_verify import LatexExtractionConfig, parse, verify  # type: ignore[import-untyped]

    _limit_memory()
    extraction = [LatexExtractionConfig()]
    for line in sys.stdin:
        try:
            pair = json.loads(line)
            # The whole text is the expression: with a parser that searches, "4 or 5" would be 5.
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
