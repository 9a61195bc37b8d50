"""What a low view is billed, as a share of the whole: five kinds of image on every known model, by the provider's rule.

Nothing is measured or sent: the rules and their sources are in `vtagent.eyes`.

    python -m benchmarks.low_view_cost
"""

from __future__ import annotations

import argparse

from benchmarks._report import report
from vtagent.eyes import FAMILIES, KnownFamily

KINDS = {
    "12 Mpx, 4032x3024": (4032, 3024),
    "A4, 2480x3508": (2480, 3508),
    "4K, 3840x2160": (3840, 2160),
    "1024x768": (1024, 768),
    "receipt, 800x4000": (800, 4000),
}
SCALE = 0.5
WANTED = 0.3


def row(family: KnownFamily) -> dict[str, str]:
    """One model's line: billed tokens, low / whole, and their share."""
    vision = family.vision
    cells = {"model": family.name, "low view": "by its setting" if family.low_setting else "by its pixels"}
    for kind, size in KINDS.items():
        low, whole = vision.tokens(*vision.low(*size, SCALE), low=True), vision.tokens(*vision.fit(*size))
        cells[kind] = f"{low} / {whole} = {low / whole:.0%}" + ("" if low <= WANTED * whole else " (!)")
    return cells


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    note = (
        f"Billed tokens of a low view (scale {SCALE:g}) / of the whole, by each provider's own rule, as vtagent.eyes "
        f"has it. Wanted: at most {WANTED:.0%}; (!) marks where the rule admits no less: Gemini 2 bills whole tiles, "
        "two of them or one."
    )
    report("low_view_cost", [row(family) for family in FAMILIES], note=note)


if __name__ == "__main__":
    main()
