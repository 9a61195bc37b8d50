"""Measures how much sooner the low view of a 12-megapixel JPEG is ready when it is decoded at reduced scale.

    python -m benchmarks.low_view [--repeats 15]

Both ways take turns in one process, on the same bytes. Wall time is compared, so the machine should be idle; processor
time is reported as well, since vtagent resizes on two threads. Ratios are ratios of medians.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from benchmarks._report import report
from vtagent.images import MemoryImageStore
from vtagent.views import View, ViewRenderer
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL, VisionSpec

SIZES = [(4032, 3024), (4000, 3000)]
SPECS = {"Qwen2.5-VL": QWEN2_5_VL, "Qwen3-VL": QWEN3_VL}
GOAL = 3.0
"""The low view must be ready at least this many times as soon."""


def page(size: tuple[int, int]) -> Image.Image:
    """Draws a photographed page of `size` pixels: text of several sizes over uneven light and sensor noise."""
    width, height = size
    light = Image.linear_gradient("L").resize(size).point([170 + value // 4 for value in range(256)])
    noise = Image.effect_noise(size, 3)
    image = ImageChops.add(light, noise, 1, -128).convert("RGB")
    draw = ImageDraw.Draw(image)
    top, points = 60, 22
    while top < height - 120:
        words = " ".join(f"Total {top * 37 % 9973}.{points:02d}" for _ in range(max(1, width // (points * 8))))
        draw.text((80, top), words, fill=(20 + top % 60, 20, 60), font=ImageFont.load_default(points))
        top, points = top + int(points * 1.6), 22 + (points + 7) % 90
    return image


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Returns the peak signal-to-noise ratio of two RGB images of one size, in dB."""
    mean_square = statistics.fmean(rms**2 for rms in ImageStat.Stat(ImageChops.difference(a, b)).rms)
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


def race(ways: list[Callable[[], Image.Image]], repeats: int) -> list[tuple[float, float]]:
    """Runs all ways in turns.

    Returns:
        (wall time, processor time) of each way: medians, in seconds.
    """
    seconds: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(repeats):
        for taken, way in zip(seconds, ways, strict=True):
            start, worked = time.perf_counter(), time.process_time()
            way()
            taken.append((time.perf_counter() - start, time.process_time() - worked))
    return [(statistics.median(c for c, _ in taken), statistics.median(p for _, p in taken)) for taken in seconds]


def measure(size: tuple[int, int], family: str, spec: VisionSpec, repeats: int) -> dict[str, object]:
    """Compares both ways on one photograph, and returns a row of the report.

    Args:
        size: (width, height) of the photograph, in pixels.
        family: Name of the model family in the report.
        spec: Image sizes of the model family.
        repeats: Number of measured renderings of each way.
    """
    buffer = io.BytesIO()
    page(size).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    store = MemoryImageStore()
    view = View(store.put(data), scale=0.5)
    renderer = ViewRenderer(store, spec, cache_size=0)  # no cache: every repeat renders
    target = view.size(spec)

    def slow() -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB").resize(target, Image.Resampling.BICUBIC)

    def ours() -> Image.Image:
        return renderer.render(view)

    quality = psnr(slow(), ours())
    (slow_s, slow_cpu), (ours_s, ours_cpu) = race([slow, ours], repeats)
    return {
        "image": f"{size[0]}x{size[1]}, {len(data) / 2**20:.1f} MiB",
        "family": family,
        "low view": f"{target[0]}x{target[1]}",
        "decode, convert, resize (ms)": round(slow_s * 1000, 1),
        "ours (ms)": round(ours_s * 1000, 1),
        "ratio": round(slow_s / ours_s, 2),
        "3x": "yes" if slow_s / ours_s >= GOAL else "no",
        "ratio of processor time": round(slow_cpu / ours_cpu, 2),
        "PSNR (dB)": round(quality, 1),
    }


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="measured renderings of each way; default: %(default)s")
    repeats = parser.parse_args().repeats
    rows = [measure(size, family, spec, repeats) for size in SIZES for family, spec in SPECS.items()]
    note = (
        "Low view (scale 0.5) of a 12-megapixel JPEG against decoding it fully, converting and resizing: median wall "
        f"times of {repeats} repeats that take turns. Ours includes checking the hash of the stored bytes. "
        f"Goal: {GOAL:g}x. Where half the photograph is not on the model's grid, one more resize is needed; its "
        "interpolation costs some sharpness, hence the lower PSNR."
    )
    report("low_view", rows, note=note)


if __name__ == "__main__":
    main()
