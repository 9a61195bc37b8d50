"""Where a checkpoint's weights go, in which format, and what is said if they cannot go there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.checkpoints import make_checkpoint
from tests.test_local_engine import IMAGE, ask, assert_exact, noise_image
from vtagent.cli import run
from vtagent.errors import ModelError
from vtagent.models.local import checkpoint
from vtagent.models.local.engine import TransformersEngine

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path, "qwen3_vl")


def quantised(folder: Path, **how: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": how}))
    return folder


@pytest.mark.parametrize(
    ("how", "packages"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel optimum"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "accelerate"),
    ],
)
def test_a_quantised_checkpoint_says_in_one_line_what_to_install_and_exits_with_3(
    how: dict[str, Any],
    packages: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None if name in packages.replace("-", "_") else name)
    page = Path("examples/documents/small-print.png").resolve()
    assert run(["ask", str(page), "Total?", "--model", str(quantised(folder, **how))]) == 3
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.endswith(f"is quantised with {how['quant_method']}, which needs: pip install {packages}")


def test_a_package_that_transformers_misses_is_told_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("Loading needs\n`pip install kernels`")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    with pytest.raises(ModelError, match="need a package: Loading needs `pip install kernels`") as caught:
        TransformersEngine.from_pretrained(folder)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_weights_over_several_devices_need_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="spread over devices, which needs: pip install accelerate"):
        TransformersEngine.from_pretrained(folder, device_map="auto")
    with TransformersEngine.from_pretrained(folder) as engine:  # one device needs none
        assert engine.generate([ask(engine, "What?")])[0].token_ids


def test_a_device_map_is_exact(folder: Path) -> None:
    with TransformersEngine.from_pretrained(folder, device_map="auto") as engine:
        request = ask(engine, f"{IMAGE}What?", noise_image(engine, "a", 3, 2))
        assert_exact(engine, [request], engine.generate([request]))


def test_weights_that_would_be_left_on_a_disk_are_refused(folder: Path, tmp_path: Path) -> None:
    places = {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "disk"}
    model: Any = AutoModelForImageTextToText
    load = model.from_pretrained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "from_pretrained", lambda *args, **own: load(*args, **own, offload_folder=tmp_path / "o"))
        with pytest.raises(ModelError, match="do not fit into the devices' memory"):
            TransformersEngine.from_pretrained(folder, device_map=places)


def test_a_device_that_is_not_here_is_refused_in_one_line(folder: Path) -> None:
    for name in ("cuda:99", "potato"):
        with pytest.raises(ModelError, match=f"there is no device '{name}' here") as caught:
            TransformersEngine.from_pretrained(folder, device=name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="either a device or a device_map"):
        TransformersEngine.from_pretrained(folder, device="cpu", device_map="auto")


@pytest.mark.parametrize(
    ("stored", "device", "hardware", "expected"),
    [
        ("bfloat16", "cpu", True, torch.bfloat16),
        ("bfloat16", "cpu", False, torch.float32),
        ("float16", "cpu", True, torch.float32),
        ("float32", "cpu", True, torch.float32),
        ("float32", "cuda", False, torch.bfloat16),
        ("bfloat16", "mps", False, torch.bfloat16),
    ],
)
def test_the_default_format_is_what_is_fast_on_the_device(
    stored: str, device: str, hardware: bool, expected: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "multiplies_bfloat16", lambda: hardware)
    config = AutoConfig.from_pretrained(folder)
    config.dtype = getattr(torch, stored)
    assert checkpoint.default_dtype(config, torch.device(device)) == expected


def test_a_bfloat16_checkpoint_loads_in_the_format_that_this_processor_is_fast_in(folder: Path) -> None:
    with TransformersEngine.from_pretrained(folder, dtype=torch.bfloat16) as engine:
        engine.model.save_pretrained(folder)
    with TransformersEngine.from_pretrained(folder) as engine:
        assert engine.model.dtype == (torch.bfloat16 if checkpoint.multiplies_bfloat16() else torch.float32)
        assert engine.generate([ask(engine, "What?")])[0].token_ids


def test_weights_that_do_not_fit_say_what_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", load)
    with pytest.raises(ModelError, match=r"cannot be loaded: CUDA out of memory.*quantised checkpoint, or device_map"):
        TransformersEngine.from_pretrained(folder)


def test_loading_needs_no_psutil() -> None:
    code = (
        "import sys; sys.modules['psutil'] = None\n"
        "from vtagent.models.local import memory; import torch\n"
        "print(memory.free_bytes(torch.device('cpu')) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "True\n"
