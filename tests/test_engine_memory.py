"""The engine's memory: rows cost what they hold, bounds hold, and what does not fit waits or is refused alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints import FAMILIES, make_checkpoint
from tests.test_local_engine import IMAGE, ask, assert_exact, mixed, noise_image
from vtagent.errors import ModelError
from vtagent.models.local import kv_cache, memory
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.local.kv_cache import KVRows, Row

CPU = torch.device("cpu")
NOWHERE = torch.device("meta")
"""Tensors there have sizes and no memory."""


@pytest.fixture(autouse=True)
def large_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the rows of small models as those of large ones: each length has a block of its own, without spare rows."""
    monkeypatch.setattr(kv_cache, "_SMALL_ROW", 0)
    monkeypatch.setattr(kv_cache, "_SMALL_BLOCK", 0)


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersEngine]:
    with TransformersEngine.from_pretrained(make_checkpoint(tmp_path_factory.mktemp("m"), request.param)) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path, "qwen3_vl")


def of_2b() -> KVRows:
    """Rows of the shape of Qwen3-VL-2B in float32, without memory."""
    return KVRows(8, 128, dtype=torch.float32, devices=[NOWHERE] * 28)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_long_row_does_not_widen_short_ones() -> None:
    rows = of_2b()
    rows.open([700] * 15 + [6000])
    assert rows.bytes <= 1.2 * rows.token_bytes * (15 * 700 + 6000)


def test_rows_that_join_and_grow_one_by_one_cost_what_they_hold_too() -> None:
    rows = of_2b()
    mine = [rows.open([length])[0] for length in [6000, *[300] * 15]]
    for tokens in range(301, 701):
        for row in mine[1:]:
            if tokens > row.columns:
                rows.grow([row], [tokens])
        assert rows.bytes <= 1.25 * rows.token_bytes * (15 * tokens + 6000)
    rows.close(mine)
    assert rows.bytes == 0


@given(st.integers(1, 200_000))
def test_a_row_is_an_eighth_longer_than_asked_at_most(tokens: int) -> None:
    columns = of_2b().columns_for(tokens)
    assert tokens <= columns <= max(tokens + 63, tokens * 9 / 8)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["open", "grow", "close"]), st.integers(0, 10**6)), max_size=40))
def test_rows_keep_what_they_hold_whatever_their_neighbours_do(events: list[tuple[str, int]]) -> None:
    rows = KVRows(2, 4, dtype=torch.float32, devices=[CPU] * 2)
    held: dict[Row, torch.Tensor] = {}
    for what, number in events:
        picked = list(held)[number % len(held)] if held else None
        if what == "open":
            opened = rows.open([number % 300 + 1, 70])
            for row in opened:
                held[row] = torch.randn(2, 2, 2, row.columns, 4)
                rows.load(row, [held[row][:, :, :, :5], held[row][:, :, :, 5:]])
        elif picked is not None and what == "grow":
            rows.grow([picked], [picked.columns + number % 200 + 1])
        elif picked is not None:
            rows.close([picked])
            del held[picked]
        for row, kv in held.items():
            assert torch.equal(rows.copy_out(row, 0, kv.shape[3]), kv)
    rows.close(list(held))
    assert rows.bytes == 0


# --- exactness over several blocks ------------------------------------------------------------------------------------


def test_logprobs_over_several_blocks_are_those_of_a_full_forward_pass(engine: TransformersEngine) -> None:
    requests = [*mixed(engine), *long_and_short(engine)]
    assert_exact(engine, requests, engine.generate(requests))


def test_prompts_in_chunks_over_several_blocks_are_exact(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtagent.models.local.decoder._CHUNK", 50)
    requests = [*mixed(engine), *long_and_short(engine)]
    assert_exact(engine, requests, engine.generate(requests))
    again = [ask(engine, f"{IMAGE}What is {i}?", noise_image(engine, "a", 7, 7), max_tokens=90) for i in range(3)]
    assert_exact(engine, again, engine.generate(again))


def long_and_short(engine: TransformersEngine) -> list[Any]:
    texts = ["What is the total? " * (1 + 9 * (i % 3)) + str(i) for i in range(7)]
    never = dict.fromkeys(engine.stop, -1000.0)
    return [
        ask(engine, text, max_tokens=20 + 30 * (i % 4), temperature=1.0, seed=i, logit_bias=never)
        for i, text in enumerate(texts)
    ]


def test_a_prompt_that_begins_as_one_in_progress_is_computed_from_there(engine: TransformersEngine) -> None:
    shared = noise_image(engine, "a", 7, 7)
    never = dict.fromkeys(engine.stop, -1000.0)
    first = engine.submit(ask(engine, f"{IMAGE}What?", shared, max_tokens=3000, logit_bias=never))
    while not engine.counters.decode_steps:
        pass
    assert engine.cached_tokens == 0
    request = ask(engine, f"{IMAGE}Who?", shared)
    [reply] = engine.generate([request])
    assert not first.done()
    first.cancel()
    assert reply.prefilled_tokens <= 10
    assert_exact(engine, [request], [reply])


# --- bounds -----------------------------------------------------------------------------------------------------------


def bounded(engine: TransformersEngine, tokens: int, **options: Any) -> TransformersEngine:
    """An engine over the same weights, with memory for the KV of so many tokens."""
    size = engine._scheduler.memory.rows.token_bytes * tokens
    return TransformersEngine(engine.model, engine.processor, memory_bytes=size * 8 // 7 + 8, **options)


def test_sequences_that_do_not_fit_together_are_all_served_and_stay_exact(engine: TransformersEngine) -> None:
    requests = [ask(engine, f"{i}: {'What is the total? ' * i}", max_tokens=150, temperature=1.0, seed=i,
                    logit_bias=dict.fromkeys(engine.stop, -1000.0)) for i in range(8)]  # fmt: skip
    with bounded(engine, 900) as small:
        kv, most = small._scheduler.memory.rows, 0

        def watched(lengths: Any) -> Any:
            nonlocal most
            opened = KVRows.open(kv, lengths)
            most = max(most, kv.bytes)
            return opened

        kv.open = watched  # type: ignore[method-assign]
        replies = small.generate(requests)
        assert small.counters.interruptions > 0
        assert most <= small._scheduler.memory.limit
        assert kv.bytes == 0
    assert_exact(engine, requests, replies)
    assert [len(reply.token_ids) for reply in replies] == [150] * 8
    assert all(0 <= reply.prefilled_tokens <= reply.prompt_tokens for reply in replies)
    assert [reply.token_ids for reply in engine.generate(requests)] == [reply.token_ids for reply in replies]


def test_kept_kv_gives_way_to_sequences_in_progress(engine: TransformersEngine) -> None:
    with bounded(engine, 500) as small:
        for i in range(6):
            request = ask(small, f"{i}{'What is the total? ' * 12}")
            assert_exact(small, [request], small.generate([request]))
            scheduler = small._scheduler
            assert small.cached_tokens * scheduler.memory.rows.token_bytes <= scheduler.memory.limit


def test_a_request_that_does_not_fit_is_refused_alone(engine: TransformersEngine) -> None:
    with bounded(engine, 300) as small:
        futures = [small.submit(ask(small, text)) for text in ("What?", "What is the total? " * 60, "Who?")]
        wait(futures, 60)
        with pytest.raises(ModelError, match=r"^a conversation of \d+ tokens needs .* the engine has .* raise memory_"):
            futures[1].result()
        assert futures[0].result().token_ids
        assert futures[2].result().token_ids
        assert small.generate([ask(small, "What?")])[0].token_ids


def test_a_reply_that_outgrows_the_memory_is_refused_alone(engine: TransformersEngine) -> None:
    never = dict.fromkeys(engine.stop, -1000.0)
    with bounded(engine, 260) as small:
        endless = small.submit(ask(small, "What?", max_tokens=3000, logit_bias=never))
        short = small.submit(ask(small, "Who?", max_tokens=100, logit_bias=never))
        assert len(short.result(60).token_ids) == 100
        with pytest.raises(ModelError, match=r"needs .* of KV"):
            endless.result(60)
        assert small.generate([ask(small, "What?")])[0].token_ids


def test_when_a_step_runs_out_of_memory_the_others_go_on_and_stay_exact(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine._scheduler._decoder.step

    def scarce(tokens: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return step(tokens, *args)

    monkeypatch.setattr(engine._scheduler._decoder, "step", scarce)
    requests = mixed(engine)
    assert_exact(engine, requests, engine.generate(requests))
    assert engine.counters.interruptions > 0


def test_a_wave_that_runs_out_of_memory_is_computed_one_by_one(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill = engine._scheduler._decoder.prefill
    engine.generate([ask(engine, "Something to forget")])

    def scarce(sequences: Any, *args: Any) -> torch.Tensor:
        if len(sequences) > 1 or engine.cached_tokens > 200 or len(sequences[0].ids) > 60:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
        return prefill(sequences, *args)

    monkeypatch.setattr(engine._scheduler._decoder, "prefill", scarce)
    requests = [ask(engine, f"What is {i}?") for i in range(4)]
    large = engine.submit(ask(engine, "What is the total? " * 30))
    assert_exact(engine, requests, engine.generate(requests))
    with pytest.raises(ModelError, match="allocate memory"):
        large.result(60)


def test_image_features_stay_inside_their_bytes(engine: TransformersEngine) -> None:
    token = engine._scheduler.vision.encode([noise_image(engine, "a", 2, 2)])["a@" + size_of(engine, 2, 2)]
    bytes_ = sum(part.nbytes for part in (token.embeds, *token.deepstack)) // 4
    with TransformersEngine(engine.model, engine.processor, memory_bytes=bytes_ * 8 * 20) as small:
        for i in range(6):
            small._scheduler.vision.encode([noise_image(small, f"{i}", 3, 2)])
            assert small._scheduler.vision.tokens <= 20
        assert small._scheduler.vision.tokens == 18


def size_of(engine: TransformersEngine, columns: int, rows: int) -> str:
    factor = engine.processor.vision.factor
    return f"{columns * factor}x{rows * factor}"


# --- what is free -----------------------------------------------------------------------------------------------------


def test_by_default_an_engine_takes_a_share_of_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 80_000_000)
    with TransformersEngine.from_pretrained(folder) as engine:
        assert engine._scheduler.memory.limit == 35_000_000
    with TransformersEngine.from_pretrained(folder, memory_bytes=8_000_000) as engine:
        assert engine._scheduler.memory.limit == 7_000_000


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.free_bytes(CPU)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 900\ninactive_file 500\n")
    assert memory.free_bytes(CPU) == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.free_bytes(CPU) == 8500


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("out of memory"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) == expected


def test_the_cpu_allocators_own_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(random.Random(0).randrange(2**59, 2**60), dtype=torch.float32)
    assert memory.is_out_of_memory(caught.value)
