"""The rollout log: what the rollouts of a step said, saw and earned, in a folder that people and tools can read.

    step-000010.jsonl      one rollout a line: question, messages, views, token ids and log-probabilities, reward
    step-000010.1.jsonl    the same from the process of rank 1
    views/<hash>.png       a view that the model was shown, once per content (over a megapixel as .jpg)

The file of a step appears when its views are on disk, so neither a reader nor a crash meets half of a step. A step that
is repeated after a crash replaces its file. `python -m vtagent.training.rollouts` makes a page of the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from PIL import Image

from vtagent.errors import DataError, VtagentError
from vtagent.graphs.state import ViewRecord
from vtagent.images import ImageLimits, decode
from vtagent.regions import Region
from vtagent.training.durable import write_whole
from vtagent.training.rewards import Reward
from vtagent.training.rl.rollout import Rollout
from vtagent.views import View

VIEWS = "views"
_STEP = re.compile(r"step-(\d+)(?:\.(\d+))?\.jsonl")
_PHOTOGRAPH = 2**20
"""Views of more pixels are kept as JPEG: as PNG, a photograph would take megabytes."""


@dataclass(frozen=True)
class LoggedRollout:
    """A rollout with its reward and its advantage."""

    rollout: Rollout
    reward: Reward | None
    """None: the rollout could not be scored."""
    advantage: float | None
    group: int
    """Equal for all rollouts of one prompt in one step, on all processes."""


class RolloutLog:
    """Writes the log.

    Args:
        folder: The folder; made if missing.
        rank: The rank of this process. Each process writes its own files.
        keep: How many steps are kept, the newest; 0: all.
    """

    def __init__(self, folder: str | os.PathLike[str], *, rank: int = 0, keep: int = 0) -> None:
        self.folder, self.rank, self.keep = Path(folder), rank, keep

    def write(self, step: int, rows: Sequence[LoggedRollout]) -> Path:
        """Write the rollouts that this process made for a step. Replaces what it wrote for this step before.

        Args:
            step: The step.
            rows: The rollouts.

        Returns:
            The file of the step.

        Raises:
            OSError: The folder cannot be written to.
        """
        (self.folder / VIEWS).mkdir(parents=True, exist_ok=True)
        files: dict[str, str | None] = {}
        lines = [json.dumps(_finite(self._line(step, row, files)), allow_nan=False) + "\n" for row in rows]
        path = self.folder / f"step-{step:06d}{f'.{self.rank}' if self.rank else ''}.jsonl"
        write_whole(path, "".join(lines).encode())
        if self.keep:
            self._thin()
        return path

    def _thin(self) -> None:
        """Remove this process's files of old steps, and the views that no step shows any more."""
        files = {file: _STEP.fullmatch(file.name) for file in self.folder.glob("step-*.jsonl")}
        own = sorted(file for file, named in files.items() if named and int(named[2] or 0) == self.rank)
        old = own[: -self.keep]
        dropped = {name for file in old for name in _views_of(file)}
        for file in old:
            file.unlink()
        if dropped:
            kept = {name for file in files.keys() - set(old) for name in _views_of(file)}
            for name in dropped - kept:
                (self.folder / VIEWS / Path(name).name).unlink(missing_ok=True)

    def _line(self, step: int, row: LoggedRollout, files: dict[str, str | None]) -> dict[str, Any]:
        rollout, reward = row.rollout, row.reward
        pixels = {image.key: image.pixels for turn in rollout.turns for image in turn.images}
        for view in rollout.views:
            if view["url"] not in files:
                files[view["url"]] = self._keep(pixels.get(view["url"]) or _rendered(view, rollout.example.images))
        return {
            "step": step,
            "group": row.group,
            "id": rollout.example.id,
            "source": rollout.example.source,
            "question": rollout.example.question,
            "answers": list(rollout.example.answers),
            "value_box": list(rollout.example.value_box) if rollout.example.value_box else None,
            "answer": rollout.answer,
            "reward": _terms(reward) if reward else None,
            "advantage": row.advantage,
            "zooms": rollout.zooms,
            "well_formed": rollout.well_formed,
            "stop": rollout.stop,
            "error": rollout.error,
            "seconds": round(rollout.seconds, 4),
            "usage": dict(rollout.usage),
            "views": [{**view, "file": files[view["url"]]} for view in rollout.views],
            "messages": [_message(message) for message in rollout.messages],
            "turns": [
                {
                    "prompt_ids": list(turn.prompt_ids),
                    "completion_ids": list(turn.completion_ids),
                    "logprobs": list(turn.logprobs),
                    "finish_reason": turn.finish_reason,
                }
                for turn in rollout.turns
            ],
        }

    def _keep(self, image: Image.Image | None) -> str | None:
        """Write a view, unless one with the same content is there.

        Returns:
            The file, relative to the folder; None without an image.
        """
        if image is None:
            return None
        name = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()[:32]
        large = image.width * image.height > _PHOTOGRAPH
        path = self.folder / VIEWS / f"{name}.{'jpg' if large else 'png'}"
        if not path.exists():
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90) if large else image.save(file, "PNG")
            write_whole(path, file.getvalue())
        return path.relative_to(self.folder).as_posix()


def read_log(folder: str | os.PathLike[str], *, steps: range | None = None) -> Iterator[dict[str, Any]]:
    """Read the lines of a log, in the order of steps and ranks.

    Args:
        folder: The folder of a log.
        steps: The steps to read. None: all.

    Yields:
        One rollout, as JSON values.

    Raises:
        DataError: No such folder, no step in it, or a line that is not a rollout.
    """
    found = []
    for path in Path(folder).glob("step-*.jsonl"):
        if (match := _STEP.fullmatch(path.name)) and (steps is None or int(match[1]) in steps):
            found.append((int(match[1]), int(match[2] or 0), path))
    if not found:
        raise DataError(f"{folder}: no rollouts of these steps there (files named step-000010.jsonl)")
    for _, _, path in sorted(found):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
                if not {"step", "group", "messages", "views"} <= line.keys():
                    raise ValueError("fields are missing")
            except (ValueError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: not a logged rollout ({error})") from error
            yield line


def _message(message: BaseMessage) -> dict[str, Any]:
    """A message as JSON: its role, its text and references, and its calls. Token ids are in the turns."""
    blocks = [message.content] if isinstance(message.content, str) else message.content
    content = [{"type": "text", "text": block} if isinstance(block, str) else _block(block) for block in blocks]
    said: dict[str, Any] = {"role": message.type, "id": message.id, "content": content}
    if isinstance(message, AIMessage):
        said["tool_calls"] = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
        said["invalid_tool_calls"] = [
            {"text": call["args"], "error": call["error"]} for call in message.invalid_tool_calls
        ]
    if isinstance(message, ToolMessage):
        said |= {"name": message.name, "status": message.status}
    return said


def _block(block: Mapping[str, Any]) -> dict[str, Any]:
    """A content block reduced to text and references."""
    return {name: value for name, value in block.items() if name in ("type", "text", "url", "mime_type")}


def _rendered(view: ViewRecord, originals: Sequence[bytes]) -> Image.Image | None:
    """Render a view that no turn shows, from the images of the example. None: the view is of another image."""
    sha256, _, region = View.parse_url(view["url"])
    original = next((each for each in originals if hashlib.sha256(each).hexdigest() == sha256), None)
    if original is None:
        return None
    try:
        image = decode(original, limits=ImageLimits())
    except VtagentError:
        return None
    if isinstance(region, Region):
        image = image.crop(region.to_pixels(*image.size))
    return image.resize((view["width"], view["height"]), Image.Resampling.BICUBIC)


def _views_of(file: Path) -> set[str]:
    """The names of the views that a step's file shows; none if another process has removed it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    return {view["file"] for line in lines for view in json.loads(line)["views"] if view["file"]}


def _terms(reward: Reward) -> dict[str, float]:
    """The terms of a reward with those of one's own functions beside the others, and the total."""
    terms = asdict(reward)
    own = terms.pop("scores")
    return {**terms, **own, "total": reward.total}


def _finite(value: Any) -> Any:
    """The value with None in place of nan and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
