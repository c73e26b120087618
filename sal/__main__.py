"""`sal`: one verb, one function elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from engine import models
from engine.launch import guarded
from sal import data, ensemble, judge, recipe, segment, verbs, zeroshot
from sal.calibrate import calibrate
from sal.doctor import doctor
from sal.features import features
from sal.models import list_models
from sal.new import new
from sal.plan import plan
from sal.train import launch
from shared_data.errors import UsageError, nearest

Verb = Callable[[list[str]], int]


def _run(word: str, stage: models.Stage = "supervised", needs: Sequence[str] = ()) -> Verb:
    """`sal train MODEL …` and the like; the model may also come from `--config`.

    needs   settings without which the verb would be another one
    """

    def verb(argv: list[str]) -> int:
        named = bool(argv) and not argv[0].startswith("-")
        model = argv[0] if named else ""
        if named:
            card = models.find(model)  # name the nearest model before anything else is looked at
            if stage != "supervised":
                card.require_stage(stage)
        phase = "test" if word == "test" else "train"
        return launch(argv[named:], model=model, phase=phase, prog=f"sal {word} MODEL", stage=stage, needs=needs)

    return verb


VERBS: dict[str, tuple[Verb, str]] = {
    "train": (_run("train"), "train a model: sal train ctrgcn --recipe ntu60_xsub --data NTU60_CS.npz"),
    "test": (_run("test"), "score weights: sal test ctrgcn --recipe ntu60_xsub --data F --weights W"),
    "pretrain": (_run("pretrain", "pretrain"), "train an encoder without labels: sal pretrain isc --recipe NAME --data F"),
    "tune": (_run("tune", "tune", ["init"]), "train a pretrained encoder further without labels: sal tune mamp --init ENCODER"),
    "finetune": (_run("finetune", needs=["init"]), "train a pretrained encoder with labels: sal finetune mamp --init ENCODER"),
    "semi": (_run("semi", needs=["init", "labelled"]), "with a share of the labels: sal semi mamp --init ENCODER --labelled 10%"),
    "probe": (judge.verb("probe"), "a linear layer on an encoder's features: sal probe isc --recipe NAME --data F --init E"),
    "knn": (judge.verb("knn"), "nearest neighbours among an encoder's features"),
    "fewshot": (judge.verb("fewshot"), "actions that an encoder was not trained on, from a few clips of each"),
    "judge": (judge.verb("judge"), "all that can be asked of an encoder, its features made once: --protocols linear knn ..."),
    "segment": (segment.run, "train | test | predict: an action for every frame: sal segment train usdrl --recipe NAME --data F"),
    "recipe": (recipe.run, "run | list: from pretraining to all evaluations: sal recipe run mamp/ntu60_xsub_full --data F"),
    "demo": (verbs.typed(verbs.demo), "the whole way from a file to a report, in minutes"),
    "data": (data.run, "check | prepare | convert | import | info | show: look at a data file, convert it, draw a clip"),
    "models": (verbs.typed(list_models), "the models: paper, size, operations, streams, published accuracies, recipes"),
    "plan": (verbs.typed(plan), "can my GPU run it, how fast, with which settings: sal plan --gpu \"RTX 3070\""),
    "calibrate": (verbs.typed(calibrate), "measure this GPU in two minutes, for predictions that are closer"),
    "doctor": (verbs.typed(doctor), "what this machine is and what is wrong with it"),
    "parity": (verbs.typed(verbs.parity), "compare with numbers recorded from the official code"),
    "ensemble": (ensemble.run, "sum the logits of several runs: sal ensemble RUN... --official"),
    "features": (verbs.typed(features), "features of clips from a trained run; --seen-only: for zero-shot recognition"),
    "zeroshot": (zeroshot.run, "run | text | published: actions never seen in training: sal zeroshot run --model fsvae --ss 5"),
    "new": (verbs.typed(new), "write the folder and the Dockerfile of a new model: sal new my_gcn"),
    "export": (verbs.typed(verbs.export), "write a trained network as ONNX"),
    "report": (verbs.typed(verbs.report), "write the HTML report of a run folder again"),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; exit codes are listed in docs/exit-codes.md."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: sal VERB …   (sal VERB --help)\n")
        for name, (_, text) in VERBS.items():
            print(f"  {name:9} {text}")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise UsageError(f"no verb {verb!r}{nearest(verb, VERBS)}", expected=", ".join(VERBS))
    for word in rest:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{word!a} is not UTF-8 text", where=f"sal {verb}", expected="names of files in UTF-8",
                next_step="rename the file or folder, or give it a link with such a name",
            ) from None  # fmt: skip
    return VERBS[verb][0](rest)


if __name__ == "__main__":
    sys.exit(main())
