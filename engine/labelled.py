"""Semi-supervised subsets as lists of clips' names that can be published: whoever has the list trains on the same clips.

Ours have a share of every class, at least one clip, and follow from names, labels, share and seed alone (`shared_data.subsets`).
MAMP's subset is drawn from all clips without regard to classes, and depends on the order of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.errors import ConfigError
from engine.records import fingerprint
from engine.storage import write_atomically
from shared_data.errors import DataError, MissingInputError
from shared_data.subsets import per_class_by_name, semi_supervised

How = Literal["per_class", "mamp"]
SHARES = (0.01, 0.05, 0.1, 0.2)
DRAWS = tuple(range(5))
TITLE = "# Labelled clips of a semi-supervised run"
EXPECTED = "a list as it was written: five lines that begin with #, then one name per line"


@dataclass(frozen=True)
class Labelled:
    """The clips whose labels a run may see.

    share   of the clips that could have been chosen, `of` in all
    how     "per_class" (ours) or "mamp"
    ids     their names, all different; for ours in the order of the alphabet
    """

    share: float
    seed: int
    how: How
    of: int
    ids: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of everything above."""
        return fingerprint([self.share, self.seed, self.how, self.of, list(self.ids)])

    def rows(self, ids: NDArray[np.str_]) -> NDArray[np.int64]:
        """Rising rows of the clips in `ids` (N,). Raises `DataError` naming the first that are not there."""
        found = np.flatnonzero(np.isin(ids, self.ids))
        if missing := sorted(set(self.ids) - set(ids[found].tolist())):
            raise DataError(
                f"{len(missing)} of {len(self.ids)} labelled clips are not in the data, such as {missing[0]}",
                where=f"{len(ids)} clips", expected="the training clips that the list was made from",
            )  # fmt: skip
        return found


def asked(words: str) -> tuple[float, int, How] | Path:
    """What `--labelled` says: "10%", "10%/3" (draw 3), "mamp:10%/0", or a file that `write` wrote. Raises `ConfigError`."""
    found = re.fullmatch(r"(mamp:)?(\d+(?:\.\d+)?)\s*%(?:/(\d+))?", words.strip())
    if found is None and "%" not in words:
        return Path(words)
    share = float(found[2]) / 100 if found else 0.0
    if found is None or not 0 < share < 1 or int(found[3] or 0) >= 2**32:
        raise ConfigError(
            f"{words!r} is no share of the labels", where="--labelled", expected="1%, 10%/3, mamp:10%/0 or a list's file"
        )
    return share, int(found[3] or 0), "mamp" if found[1] else "per_class"


def chosen(words: str, ids: NDArray[np.str_], labels: NDArray[np.int64]) -> Labelled:
    """The training clips of `ids` (N,) and `labels` (N,) that `--labelled` names; raises as `asked`, `draw` and `read`."""
    wish = asked(words)
    return read(wish) if isinstance(wish, Path) else draw(ids, labels, *wish)


def draw(ids: NDArray[np.str_], labels: NDArray[np.int64], share: float, seed: int, how: How = "per_class") -> Labelled:
    """A list of training clips `ids` (N,) with `labels` (N,). Raises `UsageError` for a share that is none, or leaves no clip."""
    if how == "mamp":
        rows = semi_supervised(len(ids), share, seed)
    else:
        rows = per_class_by_name(ids, labels, share, seed)
    return Labelled(share, seed, how, len(ids), tuple(ids[rows].tolist()))


def write(file: Path, chosen: Labelled) -> None:
    """Write a list as text. Raises `SaveError`."""
    head = (TITLE, f"# share {chosen.share!r} of {chosen.of} clips", f"# seed {chosen.seed}", f"# chosen {chosen.how}",
            f"# sha256 {chosen.sha256}")  # fmt: skip
    write_atomically(file, ("\n".join((*head, *chosen.ids)) + "\n").encode())


def read(file: Path) -> Labelled:
    """A list that `write` wrote. Raises `MissingInputError`, and `DataError` for anything else or changed by a letter."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MissingInputError(f"cannot be read: {error.strerror or error}", where=str(file), expected=EXPECTED) from error
    except ValueError as error:
        raise DataError("this is no text", where=str(file), expected=EXPECTED) from error
    try:
        title, share, seed, how, seal = (line.split() for line in lines[:5])
        found = Labelled(float(share[2]), int(seed[2]), _how(how[2]), int(share[4]), tuple(lines[5:]))
        same = " ".join(title) == TITLE and seal == ["#", "sha256", found.sha256]
    except (ValueError, IndexError):
        same = False
    if not same:
        raise DataError(
            "this is no list of labelled clips, or it is not as it was written", where=str(file), expected=EXPECTED,
            next_step="draw the list again: the same names, share and seed give the same one",
        )  # fmt: skip
    return found


def _how(word: str) -> How:
    for how in get_args(How):
        if word == how:
            return how  # type: ignore[no-any-return]
    raise ValueError(word)
