"""Abstention: the reply that a policy gives, and a data set expects, if the image does not hold the answer."""

from __future__ import annotations

from vtagent.training.documents.sections import ABSENT
from vtagent.training.rewards.rules import normalise


def abstains(answer: str | None) -> bool:
    """Whether an answer, given or gold, says that the image does not hold what was asked for.

    Example:
        >>> abstains("Not on the page."), abstains("48.10"), abstains(None)
        (True, False, False)
    """
    return answer is not None and normalise(answer) == normalise(ABSENT)
