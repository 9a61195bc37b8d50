"""Graders decide whether a prediction is right. The usual one tries rules first and asks a judge about the rest.

A recipe names a grader by its steps:

    exact                 equal after normalisation
    exact+judge           the same, and a language model compares the meanings of what is not equal
    numeric               ChartQA's relaxed accuracy, but years, money and identifiers must be met
    numeric-as-published  the same for all numbers alike
    exact+option          the letters of multiple-choice answers, whatever stands around them
    exact+math+judge      for questions whose answers are formulas
"""

from __future__ import annotations

import inspect
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel

from vtagent.errors import ModelError, VtagentError, one_line
from vtagent.training.rewards.cache import VerdictCache
from vtagent.training.rewards.judge import Judge
from vtagent.training.rewards.mathematics import Mathematics
from vtagent.training.rewards.rules import Rule, close, close_as_published, exact, numeric, numeric_as_published, option

RULES: Mapping[str, Rule] = {
    "exact": exact,
    "option": option,
    "anls": close,
    "numeric": numeric,
    "anls-as-published": close_as_published,
    "numeric-as-published": numeric_as_published,
}
"""The rules that need no package of their own, by the name of their step."""
STEPS = (*RULES, "math", "judge")
"""All names of steps."""


class Grader(Protocol):
    """Decides whether predictions are right."""

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        """Grade one prediction.

        Args:
            question: The question about the image.
            answers: The gold answers, any of which is right.
            prediction: What the policy answered; None: it gave no answer.

        Returns:
            Whether the prediction is right; None: unscorable.
        """
        ...


class Cascade:
    """Tries rules in order and then asks the judge.

    Args:
        rules: The rules by name. The first rule that gives a verdict decides.
        judge: Asked if no rule gives a verdict. Without a judge, such a prediction is wrong.

    Attributes:
        counts: The number of predictions that each step decided. "none" counts missing predictions, "no rule" those
            that no rule could decide.
    """

    def __init__(self, rules: Mapping[str, Rule], judge: Judge | None = None) -> None:
        self.rules, self.judge = dict(rules), judge
        self.counts: Counter[str] = Counter()

    async def grade(self, question: str, answers: Sequence[str], prediction: str | None) -> bool | None:
        """Grade one prediction; see `Grader.grade`. A missing or blank prediction is wrong."""
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
        if self.judge is None or _is_punctuation(prediction):
            self.counts["no rule"] += 1
            return False
        self.counts["judge"] += 1
        return await self.judge.grade(question, answers, prediction)

    async def check(self) -> None:
        """Check that the judge, if there is one, works; see `Judge.check`.

        Raises:
            ModelError: The judge does not work.
        """
        if self.judge is not None:
            await self.judge.check()


def _is_punctuation(prediction: str) -> bool:
    """Whether a prediction says nothing: punctuation and spaces alone, in whatever script. A judge may be lenient."""
    return all(unicodedata.category(each)[0] in "PZC" for each in prediction)


def build_grader(
    steps: str = "exact",
    *,
    judge_model: BaseChatModel | str | None = None,
    judge_url: str | None = None,
    cache: Path | None = None,
    concurrency: int = 16,
    attempts: int = 4,
    timeout: float = 60.0,
    temperature: float | None = 0.0,
) -> Cascade:
    """Build the grader that a recipe names.

    Args:
        steps: Names out of `STEPS`, joined by "+"; `judge` only at the end.
        judge_model: The judge's chat model, or its name for `chat_model`.
        judge_url: URL of the OpenAI-compatible server that serves the judge.
        cache: Folder of the judge's verdicts; None keeps them in memory only.
        concurrency: Maximum number of questions to the judge in progress.
        attempts: How often the judge is asked one question.
        timeout: Seconds for one reply of the judge.
        temperature: Of a judge that is named; None: it is not told any.

    Returns:
        The grader.

    Raises:
        VtagentError: A step is unknown or misplaced, the judge has no model, a package is not installed, or a number is
            out of range.

    Example:
        >>> import asyncio
        >>> asyncio.run(build_grader("exact+numeric").grade("How much?", ["48.10"], "48.1"))
        True
    """
    if attempts < 1 or concurrency < 1 or not timeout > 0:
        raise VtagentError(
            f"judge_attempts ({attempts}) and judge_concurrency ({concurrency}) must be at least 1, and judge_timeout "
            f"({timeout:g}) above 0: try 4, 16 and 60"
        )
    numbers: Any = {"concurrency": concurrency, "attempts": attempts, "timeout": timeout}
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
                model = chat_model(judge_model, judge_url, temperature=temperature)
                judge = Judge(model, cache=kept, at_end=partial(_close_connections, model), **numbers)
            else:
                judge = Judge(judge_model, cache=kept, **numbers)
        else:
            rules[name] = Mathematics() if name == "math" else RULES[name]
    return Cascade(rules, judge)


def chat_model(name: str, url: str | None = None, *, temperature: float | None = 0.0) -> BaseChatModel:
    """Make a chat model by name. Behind a URL, it does not retry by itself.

    Args:
        name: The model's name on the server at `url`. Without a URL, "provider:model" for LangChain's
            `init_chat_model`.
        url: URL of an OpenAI-compatible server, such as http://localhost:8000/v1. The key is read from OPENAI_API_KEY.
        temperature: None: the model is not told any, because some refuse 0.

    Returns:
        The chat model.

    Raises:
        ModelError: A package is not installed, or the model cannot be made.
    """
    try:
        if url is None:
            from langchain.chat_models import init_chat_model

            sampling: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
            model: object = init_chat_model(name, **sampling)
        else:
            model = _from_server(name, url, temperature)
    except ImportError as error:
        raise ModelError(f"the judge {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # providers raise many kinds
        raise ModelError(f"the judge {name!r} cannot be made: {one_line(error)}") from error
    if not isinstance(model, BaseChatModel):
        raise ModelError(f"{name!r} is no chat model")
    return model


def _from_server(name: str, url: str, temperature: float | None) -> object:
    """The model with connections of its own, which `_close_connections` closes with the judge."""
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient
    from pydantic import SecretStr

    key = SecretStr(os.environ.get("OPENAI_API_KEY") or "none")
    connections = DefaultAsyncHttpxClient()
    return ChatOpenAI(
        model=name, base_url=url, api_key=key, temperature=temperature, max_retries=0, http_async_client=connections
    )


async def _close_connections(model: BaseChatModel) -> None:
    connections = getattr(model, "http_async_client", None)
    if connections is not None:
        await connections.aclose()
