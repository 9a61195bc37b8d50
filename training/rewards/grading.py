"""A grader says whether a prediction is right; the usual one tries rules first and asks a judge for the rest.

exact                 the same after normalisation
exact+judge           … else a language model compares the meanings
numeric               ChartQA's relaxed accuracy
exact+math+judge      … for questions whose answers are formulas
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from langchain_core.language_models import BaseChatModel

from vtagent.errors import ModelError, VtagentError
from vtagent.training.rewards.cache import VerdictCache
from vtagent.training.rewards.judge import Judge
from vtagent.training.rewards.mathematics import Mathematics
from vtagent.training.rewards.rules import Rule, close, exact, numeric

RULES: Mapping[str, Rule] = {"exact": exact, "anls": close, "numeric": numeric}
STEPS = (*RULES, "math", "judge")


class Grader(Protocol):
    """Anything that can tell right from wrong."""

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        """Whether the prediction answers the question as one of the gold answers does; None: unscorable."""
        ...


class Cascade:
    """Rules in order, then the judge.

    Args:
        rules: The first that can tell has the word.
        judge: Asked where no rule can tell; without one, such a prediction is wrong.

    Attributes:
        counts: How many predictions each step has settled ("none" where there was no prediction).
    """

    def __init__(self, rules: Mapping[str, Rule], judge: Judge | None = None) -> None:
        self.rules, self.judge = dict(rules), judge
        self.counts: Counter[str] = Counter()

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        """As `Grader.grade`. No prediction, or an empty one, is wrong."""
        if prediction is None or not prediction.strip():
            self.counts["none"] += 1
            return False
        for name, rule in self.rules.items():
            verdict = rule(answers, prediction)
            if inspect.isawaitable(verdict):
                verdict = await verdict
            if verdict is not None:
                self.counts[name] += 1
                return verdict
        if self.judge is None:
            self.counts["no rule"] += 1
            return False
        self.counts["judge"] += 1
        return await self.judge.grade(question, answers, prediction)

    async def check(self) -> None:
        """See that the judge, if there is one, can judge (`Judge.check`).

        Raises:
            ModelError: It cannot.
        """
        if self.judge is not None:
            await self.judge.check()


def build_grader(
    steps: str = "exact",
    *,
    judge_model: BaseChatModel | str | None = None,
    judge_url: str | None = None,
    cache: Path | None = None,
    concurrency: int = 16,
) -> Cascade:
    """The grader that a recipe names.

    Args:
        steps: Names of `STEPS` joined by "+"; `judge` only as the last.
        judge_model: A chat model, or the name of one for `chat_model`.
        judge_url: The OpenAI-compatible server that serves it.
        cache: Folder of the judge's verdicts.
        concurrency: Questions to the judge at once.

    Raises:
        VtagentError: An unknown step, a judge without a model, a package that is not installed.

    Example:
        >>> import asyncio
        >>> asyncio.run(build_grader("exact+numeric").grade("How much?", ["48.10"], "48.1"))
        True
    """
    names = [name.strip() for name in steps.split("+")]
    rules: dict[str, Rule] = {}
    judge: Judge | None = None
    for place, name in enumerate(names):
        if name not in STEPS or names.count(name) > 1 or (name == "judge" and place != len(names) - 1):
            raise VtagentError(f"grader {steps!r}: name steps out of {', '.join(STEPS)}, each once, the judge last")
        if name == "judge":
            if judge_model is None:
                raise VtagentError(
                    f"grader {steps!r} needs a judge: name its model, and its server's URL if it has one"
                )
            kept = VerdictCache(cache) if cache else None
            if isinstance(judge_model, str):
                model = chat_model(judge_model, judge_url)
                judge = Judge(model, cache=kept, concurrency=concurrency, at_end=partial(_hang_up, model))
            else:
                judge = Judge(judge_model, cache=kept, concurrency=concurrency)
        else:
            rules[name] = Mathematics() if name == "math" else RULES[name]
    return Cascade(rules, judge)


def chat_model(name: str, url: str | None = None) -> BaseChatModel:
    """A chat model by name, at temperature 0 and without retries of its own.

    Args:
        name: As the server at `url` calls it; without a URL, "provider:model" for LangChain's `init_chat_model`.
        url: An OpenAI-compatible server, such as http://localhost:8000/v1. A key is read from OPENAI_API_KEY.

    Raises:
        ModelError: The package that it needs is not installed, or it cannot be made.
    """
    try:
        model = _provided(name) if url is None else _served(name, url)
    except ImportError as error:
        raise ModelError(f"the judge {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # whatever the provider's class refuses
        raise ModelError(f"the judge {name!r} cannot be made: {' '.join(str(error).split())}") from error
    if not isinstance(model, BaseChatModel):
        raise ModelError(f"{name!r} is no chat model")
    return model


def _provided(name: str) -> object:
    from langchain.chat_models import init_chat_model

    return init_chat_model(name, temperature=0)


def _served(name: str, url: str) -> object:
    """With connections of its own, so that they can be closed with the judge (`_hang_up`)."""
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient
    from pydantic import SecretStr

    key = SecretStr(os.environ.get("OPENAI_API_KEY") or "none")
    connections = DefaultAsyncHttpxClient()
    return ChatOpenAI(
        model=name, base_url=url, api_key=key, temperature=0, max_retries=0, http_async_client=connections
    )


async def _hang_up(model: BaseChatModel) -> None:
    connections = getattr(model, "http_async_client", None)
    if connections is not None:
        await connections.aclose()
