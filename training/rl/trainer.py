"""GraphGRPOTrainer: TRL's GRPO whose rollouts are runs of the compiled graph, on the weights being trained.

TRL keeps advantages, losses, the reference model, distributed training and logging. This class replaces the rollouts
(`_generate`), the source of rewards (`_calculate_rewards`), the forward pass, which computes equal rows once
(`forward`), the order of the data and how checkpoints are written (`checkpoints`). At start-up it checks what it relies
on in TRL (`guards`).

`_generate` returns the sampled log-probabilities. TRL uses them in the loss (importance-sampling correction) if an
external engine samples. If the weights being trained sample themselves, the loss uses the trainer's own, which
`check_exactness` compares with the sampled ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from datasets import Dataset

from vtagent.errors import ModelError, SettingsError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.models.chat import ChatVLM
from vtagent.models.codec import Codec, never_sampled
from vtagent.models.engine import Engine, ReloadableEngine
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.processor import VLProcessor
from vtagent.training.data import Example
from vtagent.training.measure.asking import ForcedProbe, HeldOutProbe
from vtagent.training.rewards import SIGNS, Grader
from vtagent.training.rl.barren import Barrenness, BarrenRun
from vtagent.training.rl.best import BestPolicy
from vtagent.training.rl.checkpoints import WholeCheckpoints, Windows, seed_of
from vtagent.training.rl.collect import Collector, WorkingStore
from vtagent.training.rl.forward import DistinctRows, encode_once
from vtagent.training.rl.groups import GenerationBatch, GroupRoller, WeightedFunction
from vtagent.training.rl.guards import check_dropout, check_model, check_settings, check_trl
from vtagent.training.rl.log import LoggedRollout, RolloutLog
from vtagent.training.rl.metrics import rollout_metrics
from vtagent.training.rl.samples import SampleMaker
from vtagent.training.rl.settings import GraphGRPOConfig
from vtagent.training.rl.weights import hand_over, plain_model


def _reward_term(name: str) -> Callable[..., list[float]]:
    """Name a term of the reward for TRL's log; its value comes from the group (`_calculate_rewards`)."""

    def term(**_: Any) -> list[float]:
        return []

    term.__name__ = name
    return term


class GraphGRPOTrainer(WholeCheckpoints, DistinctRows):
    """Trains a policy on runs of the graph that agents use.

    Args:
        model: Qwen3-VL or Qwen2.5-VL, or a PEFT model of one.
        args: The settings.
        examples: What is trained on. They are read one by one, so they may be made on demand.
        processor: The checkpoint's processor.
        grader: Says what is right.
        engine: Where rollouts are sampled, if not from `model` itself.
        build: Makes the graph from a chat model.
        functions: Further terms of the reward by name: a function of a `Rollout`, and its weight.
        held_out: Questions that are measured on every `evaluate_steps`, and are not trained on.
        save: Writes the policy to a folder, for the best one on `held_out`; all processes call it together.
        **others: `callbacks`, `optimizers` and `peft_config`, as TRL takes them.

    Raises:
        SettingsError: Settings that cannot work; raised before anything is computed.

    Example:
        >>> trainer = GraphGRPOTrainer(model, args, examples, processor, build_grader("exact"))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        args: GraphGRPOConfig,
        examples: Sequence[Example],
        processor: VLProcessor,
        grader: Grader,
        *,
        engine: ReloadableEngine | None = None,
        build: Callable[[ChatVLM], Any] = create_zoom_agent,
        functions: Mapping[str, WeightedFunction] | None = None,
        held_out: Sequence[Example] = (),
        save: Callable[[GraphGRPOTrainer, Path], None] | None = None,
        **others: Any,
    ) -> None:
        check_trl()
        functions = dict(functions or {})
        if taken := set(functions) & {*SIGNS, "total"}:
            raise SettingsError(f"a reward function cannot be called {min(taken)}: that is a term already; rename it")
        adapters = others.get("peft_config") is not None
        check_settings(args, examples=len(examples), external_engine=engine is not None, adapters=adapters)
        check_dropout(model, others.get("peft_config"))
        processor.tokenizer.padding_side = "left"
        check_model(model, processor)
        args.max_steps = args.steps(len(examples))
        self.examples = examples
        self._generation: GenerationBatch | None = None
        self._terms = (*SIGNS, *functions)
        super().__init__(
            model=model,
            reward_funcs=[_reward_term(name) for name in self._terms],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""] * len(examples), "example": range(len(examples))}),
            processing_class=processor,
            **others,
        )
        for own in (self.model, self.ref_model):
            if own is not None:
                encode_once(plain_model(self.accelerator.unwrap_model(own)).model)
        self._served = engine
        self.engine: Engine = engine or TransformersEngine(self.model, processor)
        # With tools, TRL takes the images from `_generate`; with vLLM, it corrects the loss for the other engine.
        self.tools = [create_zoom_agent]
        self.use_vllm = engine is not None
        self.mask_truncated_completions = False  # done by the samples, which keep their attention whole
        codec = Codec(processor.tokenizer, processor.chat_template)
        never = never_sampled(processor.tokenizer)
        rank = self.accelerator.process_index
        policy = ChatVLM(
            engine=self.engine,
            processor=processor,
            image_store=WorkingStore(),
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            max_tokens=args.max_completion_length,
        )
        self.collector = Collector(
            policy,
            context=args.context,
            banned=never,
            limit=args.run_seconds,
            concurrency=args.concurrency,
            build=build,
        )
        maker = SampleMaker(processor.vision, codec.image_token_id, never, processor.tokenizer.eos_token_id)
        self._roller = GroupRoller(
            self.collector, grader, maker, codec, args, examples, gather=gather_object, rank=rank, functions=functions
        )
        self._barrenness = Barrenness(args.barren_share, args.barren_patience)
        greedy = policy.model_copy(update={"temperature": 0.0})
        self._probe: ForcedProbe | None = None
        if args.probe_steps:
            self._probe = ForcedProbe(
                greedy, grader, examples, context=args.context, limit=args.run_seconds, build=build
            )
        self._held_out: HeldOutProbe | None = None
        self.best: BestPolicy | None = None
        if args.evaluate_steps and held_out:
            self._held_out = HeldOutProbe(
                greedy,
                grader,
                held_out,
                context=args.context,
                limit=args.run_seconds,
                concurrency=args.concurrency,
                build=build,
            )
            if save is not None:
                keep = partial(save, self)
                self.best = BestPolicy(Path(args.output_dir), keep, writes=self.accelerator.is_main_process)
        self.rollout_log = (
            RolloutLog(Path(args.output_dir) / "rollouts", rank=rank, keep=args.log_rollouts_keep)
            if args.log_rollouts
            else None
        )

    def _get_train_sampler(self, dataset: Any = None) -> Windows:
        args = self.args
        passes = args.max_steps * args.gradient_accumulation_steps
        return Windows(
            len(self.examples),
            prompts=args.prompts_per_window,
            rollouts=self.num_generations,
            batches=args.batches_per_window,
            windows=-(-passes // args.batches_per_window),
            shuffle=bool(args.shuffle_dataset),
            seed=args.seed,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        window = self._step // self.args.batches_per_window
        torch.manual_seed(seed_of("shuffle", self.args.seed, window, self.accelerator.process_index))
        began = time.perf_counter()
        self._prepare_engine()
        self._log_each({"time/weights": time.perf_counter() - began})
        if self._probe is not None and self.state.global_step % self.args.probe_steps == 0:
            self._log_each(self.collector.wait(self._probe.measure()))
        if self._held_out is not None and self.state.global_step % self.args.evaluate_steps == 0:
            self._log_each(self._measured())
        before = dict(self._roller.spent)
        self._generation = self._roller.roll([row["example"] for row in inputs], window)
        spent = {f"time/{name}": value - before[name] for name, value in self._roller.spent.items()}
        sampled = sum(len(turn.completion_ids) for own in self._generation.members for turn in own.rollout.turns)
        self._log_each({**spent, "tokens_per_second": sampled / max(spent["time/rollouts"], 1e-9)})
        try:
            self._barrenness.read(self._generation.final, same=self._generation.same, step=self.state.global_step + 1)
        except BarrenRun:
            if self.state.global_step:  # nothing of this step is lost: the resumed run makes the same rollouts again
                self._save_checkpoint(self.model, None)
            raise
        self.model.train()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if "pixel_values" not in output and any(member.sample.images for member in self._generation.members):
            raise ModelError("TRL has dropped the images of a batch whose placeholders were right: do not train on it")
        if self.args.check_exactness:
            gap = self.largest_gap(output, [member.sampled for member in self._generation.members])
            self._metrics["train"]["exactness/largest_gap"].append(gap)
        found = self._generation
        if self.args.rescale_idle and found.active:
            output["advantages"] = output["advantages"] * (sum(map(len, found.final)) / found.active)
        self._report(self._generation, output["advantages"].tolist())
        return output

    def measure_held_out(self) -> dict[str, float]:
        """Measure the present policy on the held-out questions, and keep it if it is the best so far.

        Returns:
            What `HeldOutProbe` found; nothing without held-out questions.
        """
        if self._held_out is None:
            return {}
        self._prepare_engine()
        return self._measured()

    def _measured(self) -> dict[str, float]:
        assert self._held_out is not None
        found: dict[str, float] = self.collector.wait(self._held_out.measure())
        if self.best is not None:
            self.best.consider(self.state.global_step, found)
        return found

    def _prepare_engine(self) -> None:
        """Give the engine the present weights."""
        self.model.eval()
        if self._served is None:
            self.engine.forget()
        else:
            hand_over(self._served, self.model, self.processing_class, self.accelerator, Path(self.args.output_dir))

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """The samples of the current generation batch, in the form that TRL 1.16 takes."""
        assert self._generation is not None
        members = self._generation.members
        samples = [member.sample for member in members]
        for place, member in enumerate(members):
            prompts[place] = [{"role": "user", "content": member.rollout.example.question}]
        replies = [
            [{"role": message.type, "content": message.text} for message in member.rollout.messages[1:]]
            for member in members
        ]
        counts = torch.tensor([len(sample.prompt_ids) + len(sample.completion_ids) for sample in samples])
        self.state.num_input_tokens_seen += int(gather(counts.to(self.accelerator.device)).sum())
        images = [sample.images for sample in samples]
        return (
            [sample.prompt_ids for sample in samples],
            [sample.completion_ids for sample in samples],
            [sample.tool_mask for sample in samples],
            replies,
            [sample.logprobs for sample in samples],  # the sampled log-probabilities enter TRL, and its loss, here
            {},
            images,
            images,  # TRL only asks whether a row has any; with the low views, every row has
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """What each term adds to the rewards of the rollouts of all processes.

        Returns:
            Shape (rollouts, terms), float32. A row is nan where there is no verdict; its advantage is 0.
        """
        assert self._generation is not None
        unscored = [torch.nan] * len(self._terms)
        terms = [
            list(member.reward.contributions.values()) if member.reward else unscored
            for member in self._generation.members
        ]
        rewards: torch.Tensor = gather(torch.tensor(terms, device=self.accelerator.device))
        return rewards

    def _report(self, generation: GenerationBatch, advantages: list[float]) -> None:
        found = rollout_metrics(generation.groups, generation.replacing)
        found["groups/same"] = generation.same * self.num_generations / self.args.generation_batch_size
        found["groups/idle_rows"] = 1 - generation.active / int(self.args.generation_batch_size)
        found["groups/refilled"] = float(generation.refilled)
        self._log_each(found)
        step, every = self.state.global_step + 1, max(1, int(self.args.logging_steps))
        last = self.state.global_step - (-self.args.batches_per_window // int(self.args.gradient_accumulation_steps))
        if self.rollout_log is None or (last // every == (step - 1) // every and step > 1):
            return  # none of the steps that use these rollouts is logged
        members = zip(generation.members, advantages, strict=True)
        self.rollout_log.write(
            step, [LoggedRollout(own.rollout, own.reward, advantage, own.group) for own, advantage in members]
        )

    def _log_each(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self._metrics["train"][name].append(value)

    def _send_telemetry(self) -> None:
        """Send nothing: the user was not asked."""
