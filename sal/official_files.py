"""Where official scripts keep their files: data, checkpoints and configurations, by name; and ours in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError
from shared_data.errors import MissingInputError

DATA: dict[tuple[str, str], tuple[str, ...]] = {
    ("ntu60", "xsub"): ("NTU60_XSub.npz", "NTU60_CS.npz"), ("ntu60", "xview"): ("NTU60_XView.npz", "NTU60_CV.npz"),
    ("ntu120", "xsub"): ("NTU120_XSub.npz", "NTU120_CSub.npz"), ("ntu120", "xset"): ("NTU120_XSet.npz", "NTU120_CSet.npz"),
    ("pku_mmd", "xsub"): ("PKUv2_XSub.npz", "PKUv1_XSub.npz"), ("pku_mmd2", "xsub"): ("PKUv2_XSub.npz",),
    ("pkuv1", "xsub"): ("PKUv1_XSub.npz",), ("pkuv2", "xsub"): ("PKUv2_XSub.npz",),
}  # fmt: skip
"""(data set, split) -> names of its file in ./data: MAMP's and STARS', and those of the Kaggle files."""

WORDS = {"dataset": "ntu60|ntu120|pkuv1|pkuv2", "split": "xsub|xview|xset", "first": "second|merged", "share": r"0\.\d+"}
"""Words in the braces of a pattern for the names of configurations -> what may stand there."""


def data(dataset: str, split: str) -> str:
    """The file of a data set in ./data, as MAMP and STARS lay it. Raises `MissingInputError`."""
    names = DATA.get((dataset, split), ())
    for name in names:
        if (Path("data") / name).exists():
            return str(Path("data") / name)
    raise MissingInputError(
        f"no data of {dataset}, {split}, named", where="./data", expected=" or ".join(names) or "--data FILE",
        next_step="name the file: --data FILE",
    )  # fmt: skip


def told_by_name(file: str | None) -> tuple[str, str] | None:
    """The data set and split that the name of a file tells; None for another name."""
    return next((known for known, names in DATA.items() if file and Path(file).name in names), None)


def configuration(pattern: str, file: str) -> dict[str, str] | None:
    """What the path of an official configuration says, by the words in the braces of `pattern`; None if it is another one.

    ``{share}`` is a fraction in the name, and comes as ``{percent}``, too; both parts of PKU-MMD are the `dataset` pku_mmd, and
    `part` says which.
    """
    regex = re.sub(r"\\{(\w+)\\}", lambda found: f"(?P<{found[1]}>{WORDS[found[1]]})", re.escape(pattern))
    match = re.search(rf"(?:^|/){regex}$", file)
    if match is None:
        return None
    found = match.groupdict()
    found["part"] = found["dataset"]
    if found["dataset"].startswith("pku"):
        found["dataset"] = "pku_mmd"
    return found | ({"percent": f"{100 * float(found['share']):g}"} if "share" in found else {})


def encoder(given: str, names: Sequence[str] = ()) -> str:
    """The checkpoint `given`; where a run of ours lies in its folder, not that file, the encoder that the run made in its place.

    names   words of which one may name the encoder, where a run makes several
    Official checkpoints are numbered by epoch from 0. Raises `MissingInputError` for an epoch of which the run keeps no weights.
    """
    path = Path(given)
    metrics = path.parent / "metrics.json"
    if path.exists() or not metrics.exists():
        return given
    last = json.loads(metrics.read_text(encoding="utf-8")).get("last", {}).get("epoch")
    numbered = re.search(r"_(\d+)\.pth(?:\.tar)?$", path.name)
    endings = [*(f"_{name}" for name in names), ""]
    kept = [path.parent / f"encoder{ending}.safetensors" for ending in endings]
    if numbered and int(numbered[1]) != last:
        saved = sorted((path.parent / "checkpoints").glob("runs-*.safetensors"))
        epoch = int(numbered[1]) + 1
        kept = [file for ending in endings for file in saved if re.fullmatch(rf"runs-{epoch}-\d+{ending}", file.stem)]
    for file in kept:
        if file.exists():
            print(f"{path.name}: the encoder of this lab's run in that folder, {file.name}", flush=True)
            return str(file)
    raise MissingInputError(
        f"the run in this folder keeps no weights in the place of {path.name}", where=str(path.parent),
        expected=f"its last epoch: checkpoint_{last:04d}.pth.tar" if isinstance(last, int) else "encoder.safetensors",
        next_step="--save-interval 10 in pretraining keeps those of every tenth epoch",
    )  # fmt: skip


def require_own(resume: str | None, folder: str) -> None:
    """Runs go on by themselves: `--resume` may name a file in the run's own folder, there or not; else `ConfigError`."""
    if resume and Path(resume).exists() and Path(folder).resolve() not in Path(resume).resolve().parents:
        raise ConfigError(
            "a run goes on from the states in its own folder alone", where=f"--resume {resume}", expected=f"a file in {folder}",
            next_step="leave --resume out: the same command goes on by itself",
        )  # fmt: skip
