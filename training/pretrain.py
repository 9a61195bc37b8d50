"""Train the bundled policy `base` from scratch, or go on with one.

    python -m vtagent.training.pretrain --out runs/base
    python -m vtagent.training.pretrain --out runs/further --policy runs/base/policy --curriculum further --steps 1000

It shows its progress, writes a learning curve (curve.csv, curve.png), and saves its whole state every few minutes and
when it is interrupted. The same command continues where it stopped, on another kind of device, too. It trains on
rendered pages only, on purpose.
"""

from __future__ import annotations

import argparse
import csv
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vtagent.models.local.checkpoint import multiplies_bfloat16
from vtagent.training.documents.sections import SECTIONS
from vtagent.training.durable import replacing
from vtagent.training.measure.plots import Series, plot_curves
from vtagent.training.pretraining.batched import ATTENTION, encode_views, hidden_states, packed_loss
from vtagent.training.pretraining.lessons import (
    CURRICULA,
    GLYPH_INDEX,
    LABEL_INDEX,
    SLOTS,
    Curriculum,
    LessonBatch,
    LessonDataset,
)
from vtagent.training.pretraining.muon import Muon
from vtagent.training.pretraining.policy import build_model, load_weights, save_policy
from vtagent.training.pretraining.probe import probe
from vtagent.training.pretraining.supervision import tokenizer
from vtagent.training.progress import StopRequest

STATE = "state.pt"
_PANELS = {"page": "whole pages", "low": "pages at half of both sides", "region": "regions of pages"}
"""What the probe shows, and the title of its panel in the image of the curve."""


@dataclass(frozen=True)
class Settings:
    """Settings of a run. A saved state can be continued only with the same settings."""

    steps: int = 9695
    curriculum: Curriculum = "whole"
    """What is taught: all from the first glyph on, or, to a policy that reads, pages above all, or places."""
    times: int = 1
    """Times the rows of a lesson's batch. Where there is a GPU, a step of four times the rows takes hardly longer."""
    seed: int = 0
    """Seed of the initial weights. The pages depend on the step number alone."""
    muon_lr: float = 2e-3
    """Learning rate of the hidden matrices."""
    adam_lr: float = 2e-3
    """Learning rate of all other parameters."""
    warmup: int = 50
    """Steps in which the learning rates rise to their full value."""
    glyph_weight: float = 0.3
    """Weight of the glyph loss beside the language loss."""
    section_weight: float = 0.3
    """Weight of the section loss: which section each visual token lies in."""
    label_weight: float = 0.3
    """Weight of the label loss: whose field's print each visual token shows."""


class Trainer:
    """The whole state of a run, saved and loaded together: model, glyph head, optimisers and step number.

    Args:
        settings: The settings of the run.
        device: A torch device; "cuda" if available, else "cpu", if absent.
        policy: A folder of weights to begin with instead of random ones. Tokens that it lacks begin at random.
    """

    def __init__(self, settings: Settings, *, device: str | None = None, policy: Path | None = None) -> None:
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.step = 0
        self.seconds = 0.0
        self.model = build_model(tokenizer(), seed=settings.seed)
        if policy is not None:
            load_weights(self.model, tokenizer(), policy)
        self.model.model.language_model.config._attn_implementation = ATTENTION
        width = self.model.lm_head.in_features
        self.glyph_head = nn.Linear(width, SLOTS[0] * SLOTS[1] * (len(GLYPH_INDEX) + 1))
        self.section_head = nn.Linear(width, len(SECTIONS) + 1)
        self.label_head = nn.Linear(width, SLOTS[0] * (len(LABEL_INDEX) + 1))
        self.heads = nn.ModuleDict({"glyph": self.glyph_head, "section": self.section_head, "label": self.label_head})
        move(self.model, self.device)
        move(self.heads, self.device)
        matrices: list[nn.Parameter] = []
        rest = list(self.heads.parameters())
        for name, parameter in self.model.named_parameters():
            hidden = parameter.ndim == 2 and "embed" not in name
            (matrices if hidden else rest).append(parameter)
        fast = torch.bfloat16 if fast_bfloat16(self.device) else torch.float32
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=settings.muon_lr, weight_decay=0.01, dtype=fast),
            torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.schedules = [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in self.optimizers]

    def _rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        return min((step + 1) / self.settings.warmup, 1.0) * max(0.0, 1 - step / self.settings.steps)

    def update(self, batch: LessonBatch) -> dict[str, Tensor]:
        """Make one optimiser step.

        Args:
            batch: Views of pages, the glyphs in their slots, and packed questions where the lesson has any.

        Returns:
            Scalars on the device: "glyph_accuracy"; "section_accuracy" and "label_accuracy" where the lesson shows
            sections and their fields; "loss" where it has questions.
        """
        self.model.train()
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bfloat16(self.device)):
            views = encode_views(self.model.model.visual, batch.views)
            glyph_loss, glyph_accuracy = _filled_loss(self.glyph_head(views[-1]), batch.slots)
            loss = glyph_loss * (self.settings.glyph_weight if batch.packed is not None else 1.0)
            losses = {"glyph_accuracy": glyph_accuracy}
            if batch.sections is not None:
                logits = self.section_head(views[-1]).float()  # (B, tokens, kinds)
                section_loss = F.cross_entropy(logits.flatten(0, 1), batch.sections.flatten())
                losses["section_accuracy"] = (logits.argmax(-1) == batch.sections).float().mean()
                loss = loss + self.settings.section_weight * section_loss
            if batch.labels is not None:
                label_loss, losses["label_accuracy"] = _filled_loss(self.label_head(views[-1]), batch.labels)
                loss = loss + self.settings.label_weight * label_loss
            if batch.packed is not None:
                language_loss = packed_loss(self.model, batch.packed, hidden_states(self.model, batch.packed, views))
                losses["loss"] = language_loss.detach()
                loss = loss + language_loss
        loss.backward()
        parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def save(self, folder: Path) -> None:
        """Write the state to `folder`. An interrupt at any moment leaves a whole file."""
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
        }
        with replacing(folder / STATE) as part:
            torch.save(state, part)

    def load(self, folder: Path) -> None:
        """Load the state in `folder`.

        Raises:
            SystemExit: It belongs to a run with other settings.
        """
        state = torch.load(folder / STATE, weights_only=True, map_location=self.device)
        if state["settings"] != asdict(self.settings):
            raise SystemExit(f"{folder / STATE} belongs to a run with other settings: {state['settings']}")
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for o, s in zip(self.optimizers, state["optimizers"], strict=True):
            o.load_state_dict(s)
        for schedule, s in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(s)
        self.step, self.seconds = state["step"], state["seconds"]


def _filled_loss(logits: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy over slots, where an empty slot has an eighth of the weight of a filled one.

    Args:
        logits: (batch, tokens, slots * classes), floating point.
        slots: The class of each slot, 0 for an empty one, (batch, tokens, slots), int64.

    Returns:
        The loss and the share of filled slots that are right, both scalars.
    """
    logits = logits.view(*slots.shape, -1).float()
    filled = slots > 0
    losses = F.cross_entropy(logits.flatten(0, -2), slots.flatten(), reduction="none").view(slots.shape)
    weights = torch.where(filled, 1.0, 0.125)
    right = (logits.argmax(-1) == slots) & filled
    return (losses * weights).sum() / weights.sum(), right.sum() / filled.sum().clamp(min=1)


def move(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device, in place."""
    module.to(device)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    return device.type != "cpu" or multiplies_bfloat16()


def run(
    settings: Settings,
    out: Path,
    *,
    save_every: int = 100,
    probe_every: int = 250,
    workers: int = 1,
    device: str | None = None,
    policy: Path | None = None,
) -> Trainer:
    """Train to the end, or until interrupted (SIGINT, SIGTERM).

    Args:
        settings: The settings of the run.
        out: The folder of the run. A state in it is continued.
        save_every: Steps between two saves of the state.
        probe_every: Steps between two points of the learning curve.
        workers: Processes that render pages; 0 renders in this one.
        device: As for `Trainer`.
        policy: As for `Trainer`. A state in `out` counts more.

    Returns:
        The trainer in its last state.
    """
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, device=device, policy=policy)
    if (out / STATE).exists():
        trainer.load(out)
        print(f"going on from step {trainer.step} of {settings.steps}", flush=True)
    stop = StopRequest()
    curve = Curve(out / "curve.csv", trainer.step)
    loader = DataLoader(
        LessonDataset(start=trainer.step, steps=settings.steps, curriculum=settings.curriculum, times=settings.times),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_interrupts_to_the_trainer,
    )
    last = time.monotonic()
    for batch in loader:
        losses = trainer.update(batch)
        now = time.monotonic()
        trainer.seconds, last = trainer.seconds + now - last, now
        curve.add(batch.lesson, losses)
        done = trainer.step == settings.steps
        if trainer.step % 25 == 0 or done:
            print(curve.line(trainer), flush=True)
        if trainer.step % probe_every == 0 or done:
            curve.write(trainer, probe(trainer.model))
            last = time.monotonic()
        if trainer.step % save_every == 0 or done or stop.asked:
            trainer.save(out)
        if stop.asked:
            print(f"stopped at step {trainer.step}; the same command goes on from here", flush=True)
            return trainer
    trainer.model.model.language_model.config._attn_implementation = "sdpa"
    move(trainer.model, torch.device("cpu"))
    save_policy(trainer.model, tokenizer(), out / "policy")
    print(f"wrote {out / 'policy'}", flush=True)
    return trainer


def _leave_interrupts_to_the_trainer(_: int) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


class Curve:
    """The learning curve on disk, and the figures since its last point.

    Args:
        path: The CSV file. The image has the same name.
        step: The step that the run continues from; later rows are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.recent: dict[str, list[Tensor]] = {}
        rows = csv.DictReader(path.read_text().splitlines()) if path.exists() else []
        self.rows: list[dict[str, str]] = [row for row in rows if int(row["step"]) <= step]

    def add(self, lesson: str, losses: dict[str, Tensor]) -> None:
        """Remember the figures of one step under the name of its lesson.

        They are read when they are shown: a GPU that is asked for a figure cannot run ahead.
        """
        for name, value in losses.items():
            self.recent.setdefault(f"{lesson}/{name}", []).append(value)

    def line(self, trainer: Trainer) -> str:
        """One line of progress, with the minutes spent and left."""
        means = "  ".join(f"{name} {_mean(v[-25:]):.3f}" for name, v in sorted(self.recent.items()))
        left = trainer.seconds / trainer.step * (trainer.settings.steps - trainer.step)
        spent = f"{trainer.seconds / 60:.1f} min, {left / 60:.0f} left"
        return f"step {trainer.step}/{trainer.settings.steps}  {spent}  {means}"

    def write(self, trainer: Trainer, measured: dict[str, float]) -> None:
        """Append a row to the CSV file, draw the image again, and start new means.

        Args:
            trainer: The trainer, for its step and time.
            measured: What the probe has measured, by name.
        """
        row: dict[str, object] = {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2)}
        row |= {name: round(value, 4) for name, value in measured.items()}
        row |= {name: round(_mean(v), 4) for name, v in self.recent.items()}
        print("probe  " + "  ".join(f"{k} {v:.3f}" for k, v in measured.items()), flush=True)
        self.rows.append({k: str(v) for k, v in row.items()})
        self.recent.clear()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        panels: dict[str, dict[str, Series]] = {}
        for name in measured:
            points = [(float(r["minutes"]), float(r[name])) for r in self.rows if r.get(name)]
            view, _, kind = name.partition(", ")
            title, label = (_PANELS[view], kind) if view in _PANELS else ("cards", name)
            panels.setdefault(title, {})[label] = Series([x for x, _ in points], [y for _, y in points])
        plot_curves(panels, self.path.with_suffix(".png"), x="minutes")


def _mean(figures: Sequence[Tensor]) -> float:
    return torch.stack(list(figures)).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/base"), help="folder of this run (default: %(default)s)")
    for name, kind in (("steps", int), ("times", int), ("seed", int), ("muon_lr", float), ("adam_lr", float)):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=getattr(Settings, name), help="default: %(default)s"
        )
    parser.add_argument(
        "--curriculum",
        choices=CURRICULA,
        default=Settings.curriculum,
        help="what is taught: all from the first glyph on (whole), or, with --policy, reading whole pages above all "
        "(further) or saying where things stand (places); "
        "default: %(default)s",
    )
    parser.add_argument("--device", help="a torch device (default: cuda if there is one, else cpu)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render pages (default: %(default)s)")
    parser.add_argument(
        "--probe-every", type=int, default=250, help="steps between two points of the curve (default: %(default)s)"
    )
    parser.add_argument("--policy", type=Path, metavar="DIR", help="begin with the weights of this policy")
    options = vars(parser.parse_args(arguments))
    out, device, workers, probe_every, policy = (
        options.pop(name) for name in ("out", "device", "workers", "probe_every", "policy")
    )
    for name, value in (("times", options["times"]), ("probe-every", probe_every)):
        if value < 1:
            parser.error(f"--{name} {value}: it must be 1 or more")
    if workers < 0:
        parser.error(f"--workers {workers}: it must be 0 or more")
    if options["curriculum"] != "whole" and policy is None:
        parser.error(
            f"--curriculum {options['curriculum']}: it goes on with a policy that reads; name one with --policy DIR"
        )
    run(Settings(**options), out, probe_every=probe_every, workers=workers, device=device, policy=policy)


if __name__ == "__main__":
    main()
