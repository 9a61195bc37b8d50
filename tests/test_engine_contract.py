"""What every engine gives its callers, and what a family entry decides, without a model."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from vtagent.errors import ModelError
from vtagent.eyes import eyes_of
from vtagent.models.engine import Engine, Generation, Request
from vtagent.models.families import DEFAULT_FAMILY, FAMILIES, family_by_name
from vtagent.models.loop_thread import LoopThread
from vtagent.visual_tokens import QWEN2_5_VL, QWEN3_VL


class Echo(Engine):
    """The least that an engine must write: it replies with the prompt, and refuses an empty one."""

    closed = False

    def submit(self, request: Request) -> Future[Generation]:
        future: Future[Generation] = Future()
        ids = request.token_ids
        if ids:
            future.set_result(Generation(ids, (0.0,) * len(ids), "stop", len(ids), 0, len(ids)))
        else:
            future.set_exception(ModelError("the prompt is empty"))
        return future

    def close(self) -> None:
        self.closed = True


def test_an_engine_must_write_submit_and_close() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Engine()  # type: ignore[abstract]


def test_an_engine_has_the_whole_contract_from_its_base() -> None:
    with Echo() as engine:
        assert engine.context is None
        with engine.announce():
            first, second = engine.generate([Request((1, 2)), Request((3,))])
        engine.forget()
        assert (first.token_ids, second.token_ids) == ((1, 2), (3,))
        assert not engine.closed
    assert engine.closed


def test_one_request_that_fails_is_raised_after_the_others_were_served() -> None:
    with pytest.raises(ModelError, match="the prompt is empty"):
        Echo().generate([Request((1,)), Request(()), Request((2,))])


def test_work_after_the_end_is_refused_in_the_words_of_the_owner() -> None:
    async def nothing() -> None:
        return None

    thread = LoopThread("test", at_end=nothing, closed="the judge is closed")
    thread.close(ModelError("closed early"))
    with pytest.raises(ModelError, match=r"^the judge is closed$"):
        thread.run(nothing()).result(5)


def test_a_name_tells_the_family_and_its_image_sizes() -> None:
    assert family_by_name("Qwen/Qwen2.5-VL-7B-Instruct").vision == QWEN2_5_VL
    assert family_by_name("someone/QWEN3-VL-tuned").vision == QWEN3_VL
    assert family_by_name("base") is DEFAULT_FAMILY
    assert all(family_by_name(family.eyes) is family for family in FAMILIES.values())
    for name in ("qwen2.5vl:7b", "qwen2_5_vl", "qwen3-vl:8b", "Qwen/Qwen3-VL-2B-Instruct"):
        assert family_by_name(name).vision == eyes_of(name).vision
