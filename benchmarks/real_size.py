"""Compares the local engine with plain transformers at the sizes of real models, with random weights.

    python -m benchmarks.real_size [--size 20M] [--device cpu] [--dtype float32] [--repeats 1] [--name real_size]

Each side runs in a process of its own, in turns, over the same token ids and images. In *two turns*, a run first sees a
page at half of both sides, and then all of it, 64 greedy tokens each. In *four questions*, each question has the whole
page and 64 tokens. Plain transformers is `generate`, from scratch for every turn and question. *Rows* is the memory for
the KV of 15 rows of 700 tokens beside one of 6,000, against what these tokens need.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks._report import report
from vtagent.models.engine import EngineImage, Request, Sampling
from vtagent.models.families import checkpoint_path
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.local.kv_cache import KVRows
from vtagent.models.placeholders import expand
from vtagent.models.processor import VLProcessor

PAGE = (1344, 1792)
REPLY = 64
TASKS = ("two turns", "four questions")


@dataclass(frozen=True)
class Shape:
    """The shape of a model, as its config says it."""

    text: dict[str, Any]
    vision: dict[str, Any]


SHAPES = {
    "20M": Shape(
        {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"head_dim": 64, "intermediate_size": 768, "vocab_size": 32_000},
        {"depth": 6, "hidden_size": 256, "num_heads": 4, "intermediate_size": 768, "out_hidden_size": 256}
        | {"deepstack_visual_indexes": [1, 2, 3]},
    ),
    "200M": Shape(
        {"hidden_size": 896, "num_hidden_layers": 16, "num_attention_heads": 14, "num_key_value_heads": 2}
        | {"head_dim": 64, "intermediate_size": 2688, "vocab_size": 64_000},
        {"depth": 12, "hidden_size": 512, "num_heads": 8, "intermediate_size": 2048, "out_hidden_size": 896}
        | {"deepstack_visual_indexes": [3, 6, 9]},
    ),
    # Qwen/Qwen3-VL-2B-Instruct
    "2B": Shape(
        {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
        | {"head_dim": 128, "intermediate_size": 6144, "vocab_size": 151_936},
        {"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "out_hidden_size": 2048}
        | {"deepstack_visual_indexes": [5, 11, 17]},
    ),
    # Qwen/Qwen3-VL-8B-Instruct
    "8B": Shape(
        {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151_936},
        {"depth": 27, "hidden_size": 1152, "num_heads": 16, "intermediate_size": 4304, "out_hidden_size": 4096}
        | {"deepstack_visual_indexes": [8, 16, 24]},
    ),
}


def random_model(size: str, processor: VLProcessor, device: str, dtype: str) -> Any:
    """Makes a Qwen3-VL of a size with random weights, directly on its device."""
    shape, known = SHAPES[size], processor.tokenizer.get_vocab()
    rope = {"rope_type": "default", "rope_theta": 5_000_000, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    if shape.text["head_dim"] == 64:
        rope["mrope_section"] = [12, 10, 10]
    config = Qwen3VLConfig(
        text_config={**shape.text, "rope_parameters": rope, "max_position_embeddings": 262_144},
        vision_config={**shape.vision, "patch_size": 16, "num_position_embeddings": 2304},
        image_token_id=processor.image_token_id,
        video_token_id=known["<|video_pad|>"],
        vision_start_token_id=known["<|vision_start|>"],
        vision_end_token_id=known["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(eos_token_id=[], pad_token_id=0)
    return model.eval()


def page_processor() -> VLProcessor:
    """The tokenizer of a bundled policy with Qwen3-VL's image sizes, for images as large as the page."""
    size = {"shortest_edge": 32 * 32, "longest_edge": PAGE[0] * PAGE[1]}
    images = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, temporal_patch_size=2, size=size)
    return VLProcessor(images, VLProcessor.from_pretrained(checkpoint_path("zoom")).tokenizer)


class Plain:
    """`generate` of transformers, from scratch each time."""

    def __init__(self, model: Any, processor: VLProcessor) -> None:
        self._model, self._processor = model, processor

    def reply(self, ids: tuple[int, ...], images: tuple[EngineImage, ...]) -> tuple[int, ...]:
        """Samples a reply to a collapsed prompt."""
        expanded = expand(ids, images, self._processor.vision, self._processor.image_token_id)
        pixels, grids = self._processor.pixels([image.pixels for image in images])
        device = self._model.device
        inputs: dict[str, Any] = {"input_ids": torch.tensor([expanded], device=device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.eq(inputs["input_ids"], self._processor.image_token_id).int()
        inputs["pixel_values"] = pixels.to(device, self._model.dtype)
        inputs["image_grid_thw"] = grids.to(device)
        out = self._model.generate(**inputs, max_new_tokens=REPLY, do_sample=False)
        return tuple(out[0, len(expanded) :].tolist())

    def replies(self, prompts: list[tuple[int, ...]], images: tuple[EngineImage, ...]) -> None:
        """Samples a reply to each prompt."""
        for ids in prompts:
            self.reply(ids, images)


class Engine:
    """The local engine."""

    def __init__(self, model: Any, processor: VLProcessor) -> None:
        self._engine = TransformersEngine(model, processor)
        self._never = dict.fromkeys(self._engine.stop, -1e9)

    def close(self) -> None:
        """Ends the engine's thread."""
        self._engine.close()

    def _request(self, ids: tuple[int, ...], images: tuple[EngineImage, ...]) -> Request:
        return Request(ids, images, Sampling(max_tokens=REPLY, logit_bias=self._never))

    def reply(self, ids: tuple[int, ...], images: tuple[EngineImage, ...]) -> tuple[int, ...]:
        """Samples a reply to a collapsed prompt."""
        [generation] = self._engine.generate([self._request(ids, images)])
        return generation.token_ids

    def replies(self, prompts: list[tuple[int, ...]], images: tuple[EngineImage, ...]) -> None:
        """Samples a reply to each prompt, all of which are asked at once."""
        self._engine.generate([self._request(ids, images) for ids in prompts])


def run(task: str, side: Plain | Engine, processor: VLProcessor) -> None:
    """Runs a task on one side."""
    known = processor.tokenizer.get_vocab()
    shown = (known["<|vision_start|>"], processor.image_token_id, known["<|vision_end|>"])
    noise = Image.effect_noise(PAGE, 80).convert("RGB")
    page = EngineImage("page", noise)
    low = EngineImage("low", noise.resize((PAGE[0] // 2, PAGE[1] // 2)))

    def text(start: int) -> tuple[int, ...]:
        return tuple(range(start, start + 40))

    if task == "two turns":
        first = (*shown, *text(40))
        said = side.reply(first, (low,))
        said = tuple(token if token not in known.values() else 50 for token in said)
        side.reply((*first, *said, *shown, *text(30)), (low, page))
    else:
        side.replies([(*shown, *text(start)) for start in (20, 30, 40, 50)], (page,))


def measure(size: str, device: str, dtype: str, side: str, task: str) -> dict[str, float]:
    """Runs a task in this process, after a small request that warms up, and returns its costs."""
    processor = page_processor()
    model = random_model(size, processor, device, dtype)
    made: Plain | Engine = Engine(model, processor) if side == "engine" else Plain(model, processor)
    known = processor.tokenizer.get_vocab()
    ids = (known["<|vision_start|>"], processor.image_token_id, known["<|vision_end|>"], 40)
    with torch.no_grad():
        made.reply(ids, (EngineImage("warm", Image.new("RGB", (64, 64))),))
        wall, cpu = time.perf_counter(), time.process_time()
        run(task, made, processor)
        if device != "cpu":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if isinstance(made, Engine):
        made.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated()
    return {"wall": wall, "cpu": cpu, "peak": peak / 2**30}


def rows_against_need(size: str) -> tuple[float, float]:
    """Memory of uneven rows against what their tokens need: after one wave, and after they joined one by one."""
    text = SHAPES[size].text
    found = []
    for waves in ([[6000, *[700] * 15]], [[6000], *[[700]] * 15]):
        devices = [torch.device("meta")] * text["num_hidden_layers"]
        rows = KVRows(text["num_key_value_heads"], text["head_dim"], dtype=torch.float32, devices=devices)
        for wave in waves:
            rows.open(wave)
        found.append(rows.bytes / rows.token_bytes / (6000 + 15 * 700))
    return found[0], found[1]


def main() -> None:
    """Measures, and writes the report to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="20M", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="default: all")
    parser.add_argument("--name", default="real_size", help="of the report; default: %(default)s")
    parser.add_argument("--only", choices=("engine", "plain"), help=argparse.SUPPRESS)  # a process of its own
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.size, options.device, options.dtype, options.only, options.tasks[0])))
        return
    table: list[dict[str, Any]] = []
    for task in options.tasks:
        costs: dict[str, list[dict[str, float]]] = {"plain": [], "engine": []}
        for _ in range(options.repeats):
            for side, own in costs.items():
                command = [sys.executable, "-m", "benchmarks.real_size", "--size", options.size, "--tasks", task]
                command += ["--device", options.device, "--dtype", options.dtype, "--only", side]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                own.append(json.loads(done.stdout.splitlines()[-1]))
                print(task, side, own[-1], file=sys.stderr, flush=True)
        middle = {side: {key: statistics.median(cost[key] for cost in own) for key in own[0]}
                  for side, own in costs.items()}  # fmt: skip
        for key, unit in (("cpu", "CPU-seconds"), ("wall", "seconds"), ("peak", "peak memory, GiB")):
            plain, engine = middle["plain"][key], middle["engine"][key]
            row = {"task": task, "cost": unit, "plain transformers": plain, "engine": engine, "ratio": engine / plain}
            table.append(row)
    together, apart = rows_against_need(options.size)
    rows_note = f"Memory for uneven rows against need: {together:.2f} in one wave, {apart:.2f} one by one."
    where = options.device if options.device == "cpu" else torch.cuda.get_device_name()
    note = (
        f"Random weights in the shape of {options.size}, {options.dtype}, on {where}, medians of {options.repeats}. "
        f"{rows_note}"
    )
    report(options.name, table, note=note)


if __name__ == "__main__":
    main()
