"""An image-only processor for Qwen vision-language models: Pillow and a fast tokenizer, no video, no torchvision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.utils.hub import cached_file

from vtagent.errors import ModelError
from vtagent.models.codec import IMAGE_TOKEN
from vtagent.models.families import chat_template, family_by_name
from vtagent.visual_tokens import VisionSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image


class VLProcessor(ProcessorMixin):
    """Image processor plus tokenizer: templates, tokenises, expands placeholders, saves and loads.

    Attributes:
        vision: the image processor's sizes as the plain numbers that the rest of vtagent computes with.
    """

    text_kwargs = {"return_token_type_ids": False}  # noqa: RUF012 - read by ProcessorMixin
    return_mm_token_type_ids = True

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        if image_processor is None or tokenizer is None:
            raise ModelError("a processor needs an image processor and a tokenizer")
        self.image_token = IMAGE_TOKEN
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            raise ModelError(f"the tokenizer has no {IMAGE_TOKEN} token, so it is not a Qwen vision-language tokenizer")
        self.image_token_id: int = tokenizer.get_vocab()[IMAGE_TOKEN]
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> VLProcessor:
        """Load from a folder or hub id: our own saved processors and stock Qwen ones, whose video files are left alone.

        Raises:
            ModelError: no tokenizer or no image processor is there.
        """
        path = str(pretrained_model_name_or_path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"no Qwen tokenizer and image processor at {path!r}: {_first_line(error)}") from error
        own = _own_template(path) or tokenizer.chat_template
        return cls(image_processor, tokenizer, chat_template(own, tokenizer, family_by_name(path)))

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Save all files of a processor, `preprocessor_config.json` too: vLLM takes settings for videos from it."""
        saved = super().save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return saved

    @property
    def vision(self) -> VisionSpec:
        """Patch size, merge size and pixel limits."""
        own = self.image_processor
        return VisionSpec(
            patch_size=own.patch_size,
            merge_size=own.merge_size,
            min_pixels=own.size["shortest_edge"],
            max_pixels=own.size["longest_edge"],
        )

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The placeholder of one image, once per visual token (the hook that ProcessorMixin expands prompts with)."""
        tokens = int(image_inputs["image_grid_thw"][image_idx].prod()) // self.image_processor.merge_size**2
        return "".join([IMAGE_TOKEN] * tokens)

    def pixels(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (patches of all images, patch_dim) and grids (images, 3) of images that have their final size."""
        import torch  # all else here does without it, so a client of a server need not have it

        own = self.image_processor
        levels = _levels(
            own.rescale_factor if own.do_rescale else None,
            (tuple(own.image_mean), tuple(own.image_std)) if own.do_normalize else None,
        )
        patches, grids = [], []
        for image in images:
            bytes_ = np.asarray(image.convert("RGB"))
            values = np.stack([levels[channel].take(bytes_[:, :, channel]) for channel in range(3)])
            flat, rows, columns = own.patchify(values, own.patch_size, own.merge_size, own.temporal_patch_size)
            patches.append(flat)
            grids.append((1, rows, columns))
        return torch.from_numpy(np.concatenate(patches)), torch.tensor(grids)


@lru_cache(maxsize=8)
def _levels(
    rescale_factor: float | None, normal: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the image processor makes of each channel's 256 levels, (3, 256): a table is faster than its sums."""
    sums = Qwen2VLImageProcessorPil()
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (3, 1, 1))
    if rescale_factor is not None:
        levels = sums.rescale(levels, rescale_factor)
    if normal is not None:
        levels = sums.normalize(levels, list(normal[0]), list(normal[1]))
    return levels.reshape(3, 256).astype(np.float32)


def _own_template(path: str) -> str | None:
    """The chat template that a processor keeps beside the tokenizer: chat_template.jinja, .json in older folders."""
    for name in ("chat_template.jinja", "chat_template.json"):
        file = cached_file(
            path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if file is not None:
            text = Path(file).read_text(encoding="utf-8")
            return text if name.endswith(".jinja") else str(json.loads(text)["chat_template"])
    return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
