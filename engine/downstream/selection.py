"""Which epoch of a protocol counts: every figure says by what rule."""

from __future__ import annotations

from typing import Literal, get_args

Rule = Literal["last", "best_on_validation", "best_on_test", "none"]
RULES: tuple[Rule, ...] = get_args(Rule)
MEANING: dict[Rule, str] = {
    "last": "the last epoch; no accuracy was looked at",
    "best_on_validation": "the best epoch on a part of the training clips that was not trained on",
    "best_on_test": "the best epoch on the test clips themselves, as officially: better than a user could have known",
    "none": "nothing was chosen",
}
