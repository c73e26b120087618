"""The official scripts' names and flags: the published commands, what they mean here, and what wrong ones are answered with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import checkpoint, models
from engine.config import RunConfig, parse
from engine.downstream import judging
from engine.downstream.judging import Wishes
from engine.downstream.suite import Judged
from sal import official_files
from sal import selfsupervised_scripts as scripts
from sal import train as train_verb
from shared_data.errors import LabError
from shared_data.sequence_store import write_sequences
from shared_data.synthetic_sequences import synthetic_sequences

ROOT = Path(__file__).resolve().parents[2]
ISC = (
    "--lr 0.01 --batch-size 64 --mlp --moco-t 0.07 --moco-k 16384 "
    "--checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based --schedule 351 --epochs 451 "
    "--pre-dataset ntu60 --skeleton-representation seq-based_and_graph-based --protocol cross_view"
)
ISC_PRETRAINED = "./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based/checkpoint_0450.pth.tar"
ISC_DOWNSTREAM = (
    f"--pretrained {ISC_PRETRAINED} --finetune-dataset ntu60 --protocol cross_view "
    "--pretrain-skeleton-representation seq-based_and_graph-based --finetune-skeleton-representation seq-based"
)
SCDNET = (
    "--lr 0.01 --batch-size 64 --encoder-t 0.2 --encoder-k 8192 --checkpoint-path ./checkpoints/pretrain/ --schedule 351 "
    "--epochs 451 --pre-dataset ntu60 --protocol cross_subject --skeleton-representation joint"
)
SCDNET_DOWNSTREAM = "--pretrained ./checkpoints/pretrain/checkpoint.pth.tar --finetune-dataset ntu60 --protocol cross_subject"
CLRTUNING = "--config config/ntu60/pretext/clrtuning_xsub_merged.yaml --use-wandb --wandb-name CLRTuning-XSub"
FINETUNE = (
    "--local-rank=0 --config ./config/ntu60_xview_joint/semi_0.1_t120_layer8_decay.yaml "
    "--output_dir ./output_dir/ntu60_xview/semi1_1/ --resume ./output_dir/ntu60_xview/semi1_1/checkpoint-last.pth "
    "--log_dir ./output_dir/ntu60_xview/semi1_1_log/ "
    "--finetune ../pretrained_weights/clrtuning_thirdstage_ntu60_view.pt --dist_eval --lr 3e-4 --min_lr 1e-5"
)


SEGMENTATION = (
    "--lr 0.005 --batch-size 512 --backbone STTR --moda joint --pretrained ./checkpoint/ntu60_xs_j_sttr/checkpoint_0450.pth.tar "
    "--finetune-dataset pku_v2 --protocol cross_subject --evaluate None"
)


class Asked:
    """What reaches the verbs: settings of runs and wishes of evaluations, which are not begun."""

    config: RunConfig
    wishes: Wishes

    def launch(
        self, argv: Sequence[str], *, model: str, phase: str = "", prog: str = "", stage: Any = "supervised", needs: Any = ()
    ) -> int:
        self.config = parse(argv, model=model, phase=phase, prog=prog, stage=stage)
        return 0

    def judge(self, config: RunConfig, wishes: Wishes, told: object = None) -> tuple[Path, Judged]:
        self.config, self.wishes = config, wishes
        return Path("judged"), Judged({}, {}, ())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """In an empty folder."""
    found = Asked()
    monkeypatch.setattr(train_verb, "launch", found.launch)
    monkeypatch.setattr(judging, "judge", found.judge)
    monkeypatch.chdir(tmp_path)
    return found


def settings(config: RunConfig, *names: str) -> list[Any]:
    return [getattr(config, name) for name in names]


def test_official_pretraining_is_our_recipe(asked: Asked) -> None:
    """The flags of the published commands change nothing in our recipes: those are the official settings."""
    for model, command, recipe in (("isc", ISC, "ntu60_xview"), ("scdnet", SCDNET, "ntu60_xsub")):
        assert scripts.pretraining(model, [*command.split(), "--data", "F"]) == 0
        ours = parse(["--recipe", recipe, "--data", "F"], model=model, phase="train", stage="pretrain")
        assert asked.config.differences(ours.identity()) == []
        assert asked.config.work_dir == command.split("--checkpoint-path ")[1].split()[0]


@pytest.mark.parametrize(
    ("model", "words", "expected"),
    [
        ("isc", "--lr 0.5 --epochs 7 --schedule 3 5 --workers 3 --gpu cpu", {"base_lr": 0.5, "num_epoch": 7, "step": [3, 5],
                                                                        "num_worker": 3, "device": "cpu"}),
        ("isc", "--protocol cross_setup --pre-dataset ntu120 --moco-m 0.9", {"recipe": "ntu120_xset", "split": "xset"}),
        ("usdrl", "--backbone DSTE --moda motion --protocol cross_view", {"recipe": "dste_ntu60_xview"}),
        ("usdrl", "--pre-dataset pku_v2", {"recipe": "sttr_pku_mmd2_xsub"}),
        ("scdnet", "--skeleton_representation bone", {"stream": "b"}),
    ],
)  # fmt: skip
def test_flags_of_pretraining(asked: Asked, model: str, words: str, expected: dict[str, Any]) -> None:
    assert scripts.pretraining(model, [*words.split(), "--data", "F"]) == 0
    assert settings(asked.config, *expected) == list(expected.values())
    assert asked.config.stage == "pretrain"


def test_arguments_of_the_objective(asked: Asked) -> None:
    words = "--moco-t 0.1 --moco-k 64 --moco-m 0.9 --mlp --skeleton-representation graph-based_and_image-based --data F"
    assert scripts.pretraining("isc", words.split()) == 0
    arguments = {"representations": ["graph", "image"], "moco_k": 64, "moco_m": 0.9, "moco_t": 0.1, "mlp": True, "dim": 128}
    assert asked.config.objective_args == arguments
    assert scripts.pretraining("usdrl", ["--moda", "motion", "--backbone", "DSTE", "--data", "F"]) == 0
    assert asked.config.objective_args == {"backbone": "dste", "modality": "motion"}
    assert scripts.pretraining("scdnet", ["--encoder-t", "0.1", "--encoder-k", "64", "--data", "F"]) == 0
    assert (asked.config.objective_args["temperature"], asked.config.objective_args["queue_size"]) == (0.1, 64)


def test_classification_is_the_official_probe(asked: Asked) -> None:
    assert scripts.action_classification("isc", f"--lr 0.1 --batch-size 64 {ISC_DOWNSTREAM} --data F".split()) == 0
    assert (asked.config.recipe, asked.config.init, asked.config.model_args) == (
        "ntu60_xview",
        ISC_PRETRAINED,
        {"representation": "seq"},
    )
    assert (asked.wishes.protocols, asked.wishes.changes) == (("linear",), {"lr": 0.1, "batch": 64})
    words = (
        f"--lr 2 --batch-size 1024 {SCDNET_DOWNSTREAM} --finetune_skeleton_representation bone --epochs 9 --schedule 3 5 --data F"
    )
    assert scripts.action_classification("scdnet", words.split()) == 0
    assert asked.wishes.changes == {"lr": 2.0, "batch": 1024, "epochs": 9, "drops": (3, 5)}
    assert asked.config.stream == "b"
    assert asked.config.test_feeder_args["test_ratio"] == [0.95]
    assert scripts.action_classification("usdrl", ["--backbone", "DSTE", "--moda=bone", "--pretrained", "W", "--data", "F"]) == 0
    assert (asked.config.recipe, asked.config.model_args) == ("dste_ntu60_xsub", {"backbone": "dste", "modality": "bone"})


@pytest.mark.parametrize(
    ("model", "script", "words", "flags"),
    [
        ("isc", "pretraining", "", "--moco-t --moco-k --moco-m --mlp --skeleton-representation --schedule"),
        ("usdrl", "action_classification", "", "--backbone --moda --pretrained --finetune-dataset --probe-lr"),
        ("scdnet", "action_retrieval", "", "--knn-neighbours --finetune-skeleton-representation --k"),
        ("mamp", "main", "pretrain_clrtuning", "--config --use-wandb"),
        ("mamp", "main_finetune", "", "--output_dir --min_lr --labelled --layer-decay"),
        ("mamp", "knn_eval", "", "--data-path --checkpoint --temperature"),
    ],
)
def test_help_names_every_flag_and_says_what_the_official_ones_are(
    model: str, script: str, words: str, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        getattr(scripts, script)(model, [*words.split(), "--help"])
    text = capsys.readouterr().out
    official, ours = text.split("of `sal`:")
    assert ended.value.code == 0
    assert {*flags.split(), "--data", "--device"} <= set(text.replace(",", " ").split())
    assert (not set(ours.split()) & {"--help", "--lr"} and "learning rate" in official) or script == "knn_eval"


def test_usdrl_is_judged_on_pku_mmd(asked: Asked) -> None:
    """`--finetune-dataset pku_v2` finds a recipe, and with it the published figure of that backbone."""
    for backbone, top1 in (("STTR", 0.518), ("DSTE", 0.544)):
        words = f"--backbone {backbone} --finetune-dataset pku_v2 --protocol cross_subject --pretrained W --data F"
        assert scripts.action_classification("usdrl", words.split()) == 0
        assert (asked.config.recipe, asked.config.dataset) == (f"{backbone.lower()}_pku_mmd2_xsub", "pku_mmd")
        (row,) = judging.published(asked.config)
        assert row.top1 == top1 and row.source.endswith("part II")


def test_retrieval(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.action_retrieval("isc", f"--lr 0.1 --batch-size 64 --knn-neighbours 1 {ISC_DOWNSTREAM} --data F".split()) == 0
    assert (asked.wishes.protocols, asked.wishes.ks, asked.config.base_lr) == (["knn", "bottleneck"], (1,), 0.01)
    assert "--lr: nothing is trained here" in capsys.readouterr().out
    words = f"--knn-neighbours 5 {SCDNET_DOWNSTREAM} --finetune-skeleton-representation joint --data F"
    assert scripts.action_retrieval("scdnet", words.split()) == 0
    assert (asked.wishes.protocols, asked.wishes.ks) == (["knn"], (5,))
    assert asked.config.work_dir is not None and asked.config.work_dir.endswith("finetune_ntu60_xsub_action_retrieval")


def test_stars(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.main("mamp", ["pretrain_clrtuning", *CLRTUNING.split(), "--data", "F"]) == 0
    assert settings(asked.config, "stage", "recipe", "init") == [
        "tune",
        "ntu60_xsub_merged",
        "pretrained_weights/mamp_ntu60_xsub.pth",
    ]
    assert "There is no Weights & Biases here" in capsys.readouterr().out
    words = "--config config/ntu60/pretext/clrtuning_xview_second.yaml --data F --init W"
    assert scripts.main("mamp", ["pretrain_clrtuning", *words.split()]) == 0
    assert settings(asked.config, "recipe", "init") == ["ntu60_xview_second", "W"]
    assert scripts.main_finetune("mamp", [*FINETUNE.split(), "--data", "F"]) == 0
    expected = ["finetune_ntu60_xview", "mamp:10%/0", "../pretrained_weights/clrtuning_thirdstage_ntu60_view.pt", 3e-4, 1e-5]
    assert settings(asked.config, "recipe", "labelled", "init", "base_lr", "min_lr") == expected
    assert asked.config.work_dir == "./output_dir/ntu60_xview/semi1_1/"
    words = "--config ./config/ntu120_xset_joint/finetune_t120_layer8_decay.yaml --data F --batch_size 4"
    assert scripts.main_finetune("mamp", words.split()) == 0
    assert settings(asked.config, "recipe", "labelled", "init", "batch_size") == ["finetune_ntu120_xset", "", None, 4]
    assert scripts.knn_eval("mamp", ["--data-path", "data/NTU60_XView.npz", "--checkpoint", "W"]) == 0
    assert settings(asked.config, "recipe", "data", "init") == ["finetune_ntu60_xview", "data/NTU60_XView.npz", "W"]
    assert asked.wishes.protocols == ("knn",)


def test_data_lies_where_official_code_has_it(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.pretraining("isc", []) == 66
    assert "NTU60_XSub.npz or NTU60_CS.npz" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "NTU60_CS.npz").touch()
    assert scripts.pretraining("isc", []) == 0
    assert asked.config.data == "data/NTU60_CS.npz"


def test_each_part_of_pku_mmd_has_a_file_of_its_own(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("PKUv1_XSub.npz", "PKUv2_XSub.npz"):
        (tmp_path / "data" / name).touch()
    for part in ("pkuv1", "pkuv2"):
        words = ["--config", f"config/{part}_xsub_joint/finetune_t120_layer8_decay.yaml", "--finetune", "W"]
        assert scripts.main_finetune("mamp", words) == 0
        assert asked.config.data == f"data/{part.replace('pku', 'PKU')}_XSub.npz"
        assert asked.config.recipe == "finetune_pku_mmd_xsub"


def test_stars_begins_with_the_file_that_its_seed_names(asked: Asked) -> None:
    merged = "--config config/ntu120/pretext/clrtuning_xset_merged.yaml --data F"
    assert scripts.main("mamp", ["pretrain_clrtuning", *merged.split()]) == 0
    assert asked.config.init == "pretrained_weights/mamp_ntu120_xview.pth"
    third = merged.replace("merged", "third").split()
    assert scripts.main("mamp", ["pretrain_clrtuning", *third]) == 0
    assert asked.config.init is None  # stage two's file has no name of its own: a run asks for it
    assert scripts.main("mamp", ["pretrain_clrtuning", *third, "--init", "W"]) == 0
    assert (asked.config.recipe, asked.config.init) == ("ntu120_xset_third", "W")


@pytest.mark.parametrize(
    ("call", "words", "said"),
    [
        (scripts.pretraining, "--moco-tt 1", "did you mean --moco-t?"),
        (scripts.pretraining, "--num-epok 1", "did you mean --num-epoch?"),
        (scripts.pretraining, "--protocol cross_subjct", "did you mean cross_subject?"),
        (scripts.pretraining, "--pre-dataset ntu61", "did you mean ntu60?"),
        (scripts.pretraining, "--pre-dataset ntu60 --protocol cross_setup", "did you mean ntu120_xset?"),
        (scripts.pretraining, "--skeleton-representation seq-base", "did you mean seq-based?"),
        (scripts.pretraining, "--epochs many", "invalid int value"),
        (scripts.action_classification, "--pretraind W", "did you mean --pretrained?"),
        (scripts.action_classification, "", "no encoder named"),
        (scripts.action_retrieval, "--knn-neighbors 1", "did you mean --knn-neighbours?"),
    ],
)
def test_wrong_flags_leave_with_2_and_name_the_nearest(
    asked: Asked, capsys: pytest.CaptureFixture[str], call: Any, words: str, said: str
) -> None:
    assert call("isc", words.split()) == 2
    assert said in capsys.readouterr().err


def test_wrong_words_of_stars(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.main("mamp", ["pretrain_clrtunin", "--config", "x"]) == 2
    assert "did you mean pretrain_clrtuning?" in capsys.readouterr().err
    assert scripts.main("mamp", ["pretrain_clrtuning", "--config", "config/ntu60/pretext/clrtuning_xsub_fourth.yaml"]) == 2
    assert "clrtuning_{split}_{first}.yaml" in capsys.readouterr().err
    assert scripts.main("mamp", ["pretrain_clrtuning", *CLRTUNING.replace("wandb-name", "wandb-nam").split()]) == 2
    assert "did you mean --wandb-name?" in capsys.readouterr().err


def test_checkpoints_of_our_runs_stand_for_official_ones(tmp_path: Path) -> None:
    """Official files are numbered by epoch from 0; a run of ours keeps its last encoders, and others when asked to."""
    assert official_files.encoder(str(tmp_path / "checkpoint_0450.pth.tar")) == str(tmp_path / "checkpoint_0450.pth.tar")
    (tmp_path / "metrics.json").write_text(json.dumps({"last": {"epoch": 450}}))
    (tmp_path / "checkpoints").mkdir()
    files = [
        "encoder_seq",
        "encoder_graph",
        "checkpoints/runs-10-50_seq",
        "checkpoints/runs-10-50_graph",
        "checkpoints/runs-110-550_graph",
    ]
    for name in files:
        (tmp_path / f"{name}.safetensors").touch()

    def found(name: str, *names: str) -> str:
        return str(Path(official_files.encoder(str(tmp_path / name), names)).relative_to(tmp_path)).removesuffix(".safetensors")

    assert found("checkpoint_0450.pth.tar", "seq") == found("checkpoint.pth.tar", "seq") == "encoder_seq"
    assert found("checkpoint_0450.pth.tar", "graph") == "encoder_graph"
    assert found("checkpoint_0009.pth.tar", "graph") == "checkpoints/runs-10-50_graph"
    for wrong in (("checkpoint_0109.pth.tar", "seq"), ("checkpoint_0450.pth.tar", "image"), ("checkpoint_0010.pth.tar", "seq")):
        with pytest.raises(LabError, match="keeps no weights") as refused:
            found(*wrong)
        assert "checkpoint_0450.pth.tar" in str(refused.value)


def test_a_run_goes_on_from_its_own_folder_alone(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs.pth.tar").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkpoint_0001.pth.tar").touch()
    for file, code in (("theirs.pth.tar", 2), ("c/checkpoint_0001.pth.tar", 0), ("c/none.pth.tar", 0), ("none", 0)):
        assert scripts.pretraining("isc", ["--data", "F", "--checkpoint-path", "c", "--resume", file]) == code
    assert "in its own folder alone" in capsys.readouterr().err


def test_official_segmentation_is_our_recipe_of_windows(asked: Asked) -> None:
    """The flags of the published command change nothing in it; `--evaluate FILE` tests that file."""
    assert scripts.action_segmentation("usdrl", [*SEGMENTATION.split(), "--data", "F"]) == 0
    recipe = ["--recipe", "sttr_pku_mmd2_xsub_window", "--data", "F", "--model-args.modality", "joint"]
    ours = parse(recipe, model="usdrl", phase="train", stage="segment")
    assert [told.split(":")[0] for told in asked.config.differences(ours.identity())] == ["init"]
    assert settings(asked.config, "init", "phase", "batch_size") == [
        "./checkpoint/ntu60_xs_j_sttr/checkpoint_0450.pth.tar", "train", 512,
    ]  # fmt: skip
    other = SEGMENTATION.replace("STTR", "DSTE").replace("joint", "bone").replace("None", "best.safetensors")
    assert scripts.action_segmentation("usdrl", [*other.split(), "--data", "F"]) == 0
    assert settings(asked.config, "recipe", "phase", "weights", "init") == [
        "dste_pku_mmd2_xsub_window", "test", "best.safetensors", None,
    ]  # fmt: skip
    assert asked.config.model_args == {"backbone": "dste", "modality": "bone"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--finetune-dataset pku_v3", "did you mean pku_v2?"),
        ("--finetune-dataset ntu60", "has no recipe 'sttr_ntu60_xsub_window'"),
        ("--backbone STRT", "did you mean STTR?"),
        ("--knn-neighbours 1", "unknown flag --knn-neighbours"),
    ],
)
def test_wrong_flags_of_segmentation(asked: Asked, capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    assert scripts.action_segmentation("usdrl", [*SEGMENTATION.split(), *words.split()]) == 2
    assert said in capsys.readouterr().err


OFTEN = ("isc/pretraining", "usdrl/action_segmentation", "mamp/main pretrain_clrtuning")
SELDOM = (
    "isc/main_moco_inter_skeleton", "isc/action_classification", "isc/action_retrieval", "scdnet/pretraining",
    "scdnet/action_classification", "scdnet/action_retrieval", "usdrl/pretraining", "usdrl/action_classification",
    "usdrl/action_retrieval", "mamp/knn_eval", "mamp/main_finetune",
)  # fmt: skip


@pytest.mark.parametrize("script", [*OFTEN, *(pytest.param(script, marks=pytest.mark.slow) for script in SELDOM)])
def test_scripts_start_in_any_folder(script: str, tmp_path: Path) -> None:
    name, *verb = script.split()
    file = ROOT / "models" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(file), *verb, "--help"], cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python3 {file.name}")


def test_from_pretraining_to_a_score_by_the_official_scripts(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAL_WORK_DIR", str(tmp_path / "work_dir"))
    flags = ["--data", str(tiny_data), "--dataset", "auto", "--split=", "--device", "cpu", "--num-worker", "0"]
    small = ["--objective-args.encoders", "{seq: {width: 8, layers: 1}, graph: {width: 8}}", "--max-clips", "8"]
    words = "--batch-size 4 --moco-k 16 --checkpoint-path c --epochs 1 --protocol cross_view"
    assert scripts.pretraining("isc", [*words.split(), *flags, *small]) == 0
    words = "--pretrained c/checkpoint_0000.pth.tar --protocol cross_view --finetune-skeleton-representation graph-based"
    assert (
        scripts.action_classification("isc", [*words.split(), *flags, "--crops", "fixed", "--epochs", "2", "--schedule", "1"])
        == 0
    )
    record = json.loads((tmp_path / "work_dir/isc/ntu60_xview_action_classification/evaluation.json").read_text())
    assert record["encoder"]["model_args"] == {"representation": "graph", "width": 8}
    assert record["results"][0]["setting"] == "isc, fixed crops, epochs 2, drops 1"
    assert record["results"][0]["note"] == "epoch 2 of 2"


def test_the_published_command_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a pretrained encoder, with its batch of 512 windows: here narrow ones of 16 frames, of made-up sequences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAL_WORK_DIR", str(tmp_path / "work_dir"))
    source = synthetic_sequences(classes=2, train=3, test=1, actions=100, lengths=(30, 40), pauses=(5, 10))
    data = write_sequences(source, tmp_path / "long.h5")
    classifier = models.build(models.find("usdrl"), num_classes=2, skeleton="ntu25", people=2, width=8, frames=16)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "metrics.json").write_text('{"last": {"epoch": 450}}')
    about = {"model": "usdrl", "model_args": {"width": 8, "frames": 16}}
    checkpoint.save_weights(tmp_path / "checkpoint" / "encoder.safetensors", classifier.encoder, about)
    words = SEGMENTATION.replace("ntu60_xs_j_sttr/", "").split()
    flags = ["--split=", "--device", "cpu", "--num-worker", "0", "--train-window-size", "16", "--model-args.width", "8"]
    assert scripts.action_segmentation("usdrl", [*words, "--data", str(data), *flags, "--num-epoch", "1"]) == 0
    run = tmp_path / "work_dir/usdrl/segment_sttr_pku_mmd2_xsub_window_j"
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["mode"], metrics["sequences_train"], metrics["sequences_test"]) == ("window", 2, 1)
    assert set(metrics["last"]) == {"epoch", "raw"} and "test" in metrics
    assert scripts.action_segmentation(
        "usdrl", [*SEGMENTATION.split(), "--evaluate", str(run / "checkpoints/best.safetensors"), "--data", str(data), *flags]
    ) == 0  # fmt: skip
    tested = json.loads((run.parent / f"{run.name}_test" / "metrics.json").read_text())
    assert tested["last"]["raw"] == metrics["test"]["best"]["raw"]
