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

from vtagent.errors import ModelError, one_line
from vtagent.models.codec import IMAGE_TOKEN
from vtagent.models.families import chat_template, family_by_name
from vtagent.visual_tokens import VisionSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image


class VLProcessor(ProcessorMixin):
    """An image processor and a tokenizer with a chat template.

    Args:
        image_processor: The checkpoint's image processor.
        tokenizer: The checkpoint's tokenizer.
        chat_template: The chat template; the tokenizer's own if absent.
        **kwargs: Ignored; transformers passes them.

    Attributes:
        image_token: The image placeholder.
        image_token_id: Its id.

    Raises:
        ModelError: A part is missing, or the tokenizer has no image placeholder.
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
        """Load a saved `VLProcessor` or a stock Qwen processor, whose video settings are ignored.

        Args:
            pretrained_model_name_or_path: A folder or a hub id.
            **kwargs: Passed on to transformers.

        Raises:
            ModelError: There is no tokenizer or no image processor.
        """
        path = str(pretrained_model_name_or_path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"no Qwen tokenizer and image processor at {path!r}: {one_line(error)}") from error
        own = _own_template(path) or tokenizer.chat_template
        return cls(image_processor, tokenizer, chat_template(own, tokenizer, family_by_name(path)))

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Save all files of a processor, with `preprocessor_config.json`: vLLM reads settings for videos from it.

        Args:
            save_directory: The folder.
            **kwargs: Passed on to transformers.
        """
        saved = super().save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory)
        return saved

    @property
    def vision(self) -> VisionSpec:
        """The image sizes that the model sees."""
        own = self.image_processor
        return VisionSpec(
            patch_size=own.patch_size,
            merge_size=own.merge_size,
            min_pixels=own.size["shortest_edge"],
            max_pixels=own.size["longest_edge"],
        )

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The expanded placeholder of one image. ProcessorMixin calls this hook to expand prompts.

        Args:
            image_inputs: With `image_grid_thw`, (images, 3) int64.
            image_idx: The image.
            **kwargs: Not used.
        """
        tokens = int(image_inputs["image_grid_thw"][image_idx].prod()) // self.image_processor.merge_size**2
        return "".join([IMAGE_TOKEN] * tokens)

    def pixels(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut images into normalised patches.

        Args:
            images: At their final size: they are not resized.

        Returns:
            Patches (patches of all images, patch_dim) float32, and grids (images, 3) int64: frames, rows and columns of
            patches.
        """
        import torch  # not needed elsewhere here: a client of a server works without it

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
    """The image processor's value for each level of each channel. Looking it up is faster than computing it.

    Args:
        rescale_factor: Factor of the levels; None: they are not rescaled.
        normal: Mean and standard deviation of each channel; None: they are not normalised.

    Returns:
        (3, 256) float32.
    """
    sums = Qwen2VLImageProcessorPil()
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (3, 1, 1))
    if rescale_factor is not None:
        levels = sums.rescale(levels, rescale_factor)
    if normal is not None:
        levels = sums.normalize(levels, list(normal[0]), list(normal[1]))
    return levels.reshape(3, 256).astype(np.float32)


def _own_template(path: str) -> str | None:
    """The chat template in a checkpoint's chat_template.jinja, or chat_template.json in older ones; None without."""
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
