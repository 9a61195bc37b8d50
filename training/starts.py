"""Make a policy that zooms with a given probability and is otherwise the policy that it is made of.

    python -m vtagent.training.starts --model base --share 0.8 --out runs/start-0.8

A GRPO run ends differently from another start (see training.ablation). The log-odds of a call are changed and nothing
else: the output row of the token that opens a call is moved along the mean hidden state at the decision, as far as the
wanted share needs. No data and no labels are learned, so the policy knows no more than before about which pages need a
zoom. The share that it comes to is measured again, by sampling, and printed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vtagent.errors import ModelError, SettingsError
from vtagent.training.command_line import clean_exit
from vtagent.training.data import Example, open_examples
from vtagent.training.durable import write_whole

SHARE = "share.json"
"""The file in the policy's folder that says what was asked for and what was measured."""
_PAGES = 64
_TOLERANCE = 0.05
"""Greatest difference of the measured share from the one that was asked for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="base", help="the policy to begin with (default: %(default)s)")
    add("--share", type=float, required=True, help="wanted probability of a zoom, between 0 and 1")
    add("--data", default="rendered-medium", help="what it is measured on, as for training.grpo (default: %(default)s)")
    add("--pages", type=int, default=_PAGES, help="pages to measure on (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder of the new policy")
    options = parser.parse_args(arguments)
    with clean_exit(parser):
        examples = list(open_examples(options.data, count=options.pages, seed=1))
        share = make_start(options.model, options.share, examples, options.out)
        print(f"{options.out}: zooms with probability {share:.3f}", file=sys.stderr)


def make_start(model: str, share: float, examples: Sequence[Example], out: Path) -> float:
    """Write a policy that zooms with a probability of `share`, averaged over the examples.

    Args:
        model: The policy to begin with: a bundled name, a folder, or a hub id.
        share: The wanted probability, between 0 and 1.
        examples: What it is measured on.
        out: The folder to write, whole or not at all: `share.json` in it is written last.

    Returns:
        The measured probability of the new policy.

    Raises:
        SettingsError: The share is not between 0 and 1.
        ModelError: The policy does not decide, or the share cannot be reached by moving one row.
    """
    if not 0 < share < 1:
        raise SettingsError(f"a start zooms with a probability between 0 and 1, not {share}")
    network, processor = _loaded(model)
    _move(network, processor, share, examples)
    network.save_pretrained(out)
    processor.save_pretrained(out)
    measured = fmean(_decisions(network, processor, examples))
    if abs(measured - share) > _TOLERANCE:
        raise ModelError(f"{model} could be moved to a share of {measured:.3f} only, not {share}; train it there")
    write_whole(out / SHARE, json.dumps({"of": model, "asked": share, "measured": measured}, indent=1) + "\n")
    return measured


def share_of(policy: str, examples: Sequence[Example]) -> float:
    """Measure the probability with which a policy zooms at temperature 1, averaged over the examples.

    Args:
        policy: A bundled name, a folder, or a hub id.
        examples: What it is measured on.

    Raises:
        ModelError: The policy does not decide.
    """
    return fmean(_decisions(*_loaded(policy), examples))


def _loaded(policy: str) -> tuple[Any, Any]:
    """The network of a policy in float32, and its processor."""
    from transformers import AutoModelForImageTextToText

    from vtagent.models.families import checkpoint_path
    from vtagent.models.processor import VLProcessor

    path = checkpoint_path(policy)
    return AutoModelForImageTextToText.from_pretrained(path, dtype="float32"), VLProcessor.from_pretrained(path)


def _move(network: Any, processor: Any, share: float, examples: Sequence[Example]) -> None:
    """Move the output row of the token that opens a call until the mean probability of a call is `share`."""
    import torch

    from vtagent.models.codec import Codec

    states, odds = _at_decisions(network, processor, examples)
    direction = states.mean(0)
    direction = direction / direction.square().sum()
    tilt = states @ direction  # (decisions,): what one unit of movement adds to each log-odds; 1 on average

    def mean_after(move: float) -> float:
        return float(torch.sigmoid(odds + move * tilt).mean())

    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_after(middle) < share else (low, middle)
    call = Codec(processor.tokenizer, processor.chat_template).tool_call_id
    with torch.no_grad():
        network.get_output_embeddings().weight[call] += low * direction


def _at_decisions(network: Any, processor: Any, examples: Sequence[Example]) -> tuple[Any, Any]:
    """The hidden states at the decisions, (decisions, hidden), and the log-odds of a call there, (decisions,)."""
    import torch

    from vtagent.models.codec import Codec
    from vtagent.models.placeholders import expand
    from vtagent.training.rl.metrics import decision_place

    codec = Codec(processor.tokenizer, processor.chat_template)
    call = codec.tool_call_id
    states = []
    for turn in _first_turns(network, processor, examples):
        place = decision_place(turn, codec)
        if place is None:
            continue
        prompt = expand(turn.prompt_ids, turn.images, processor.vision, processor.image_token_id)
        ids = torch.tensor([[*prompt, *turn.completion_ids[:place]]])
        pixels, grids = processor.pixels([image.pixels for image in turn.images])
        network.model.rope_deltas = None
        with torch.no_grad():
            output = network.model(
                input_ids=ids,
                pixel_values=pixels,
                image_grid_thw=grids,
                mm_token_type_ids=(ids == processor.image_token_id).int(),
            )
        states.append(output.last_hidden_state[0, -1])
    if not states or call is None:
        raise ModelError("the policy never comes to a decision; is it one that knows zoom_image?")
    hidden = torch.stack(states)
    with torch.no_grad():
        logits = network.get_output_embeddings()(hidden)
    others = torch.cat([logits[:, :call], logits[:, call + 1 :]], dim=1).logsumexp(1)
    return hidden, logits[:, call] - others


def _decisions(network: Any, processor: Any, examples: Sequence[Example]) -> list[float]:
    """The probability of a call in one sampled run of each example that came to a decision."""
    from vtagent.models.codec import Codec
    from vtagent.training.rl.metrics import decision

    codec = Codec(processor.tokenizer, processor.chat_template)
    found = [decision(turn, codec) for turn in _first_turns(network, processor, examples)]
    known = [p for p in found if p is not None and math.isfinite(p)]
    if not known:
        raise ModelError("the policy never comes to a decision; is it one that knows zoom_image?")
    return known


def _first_turns(network: Any, processor: Any, examples: Sequence[Example]) -> list[Any]:
    """The first turn of one run of the graph for each example, sampled at temperature 1."""
    from vtagent.graphs.zoom import ZoomContext
    from vtagent.models.chat import ChatVLM
    from vtagent.models.codec import never_sampled
    from vtagent.models.local.engine import TransformersEngine
    from vtagent.training.rl.collect import Collector, Job, WorkingStore

    network.eval()
    engine = TransformersEngine(network, processor)
    policy = ChatVLM(engine=engine, processor=processor, image_store=WorkingStore(), temperature=1.0, max_tokens=64)
    collector = Collector(policy, context=ZoomContext(), banned=never_sampled(processor.tokenizer))
    try:
        rollouts = collector.collect([Job(example, place) for place, example in enumerate(examples)])
    finally:
        collector.close()
        engine.close()
    return [rollout.turns[0] for rollout in rollouts if rollout.turns]


if __name__ == "__main__":
    main()
