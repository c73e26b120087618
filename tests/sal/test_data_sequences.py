"""`sal data ...` of whole videos with a class per frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sal.__main__ import main
from shared_data.check_sequences import stored_info
from shared_data.formats.untrimmed import open_sequences
from shared_data.sequence_store import write_lasa


def sal(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_that_is_nothing_else_is_checked_prepared_and_told_of(capsys, untrimmed, tmp_path):
    folder, store = write_lasa(untrimmed, tmp_path / "package"), tmp_path / "s.h5"
    code, out, _ = sal(capsys, "check", folder)
    assert code == 0 and "44%" in out and "usable; read the warning first" in out
    assert sal(capsys, "prepare", folder, "--out", store)[:2] == (0, f"{store}\n")
    code, out, _ = sal(capsys, "check", store, "--json")
    assert code == 0 and json.loads(out)["splits"]["train"]["histogram"] == [7, 9, 0]
    code, out, _ = sal(capsys, "info", store)
    assert code == 0 and json.loads(out) == json.loads(json.dumps(stored_info(store)))
    told = json.loads(out)
    assert told["splits"]["test"] == {"sequences": 1, "frames": 4, "rows_mib": 0.001, "two_people": 0}
    assert told["source_name"] == "package" and told["schema_version"] == 1


def test_text_files_are_clips_unless_sequences_are_asked_for(capsys, tmp_path):
    for name in ("A01N01-L", "A01N01-M", "A01N01-R"):
        for kind, text in (("skeleton", "\n".join([" ".join(["1.5"] * 150)] * 12)), ("label", "3,2,7,1\n")):
            (tmp_path / "pku" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "pku" / kind / f"{name}.txt").write_text(text)
    code, out, _ = sal(capsys, "check", tmp_path / "pku", "--split", "view", "--json")
    assert code == 0 and json.loads(out)["splits"]["train"]["clips"] == 2
    code, out, _ = sal(capsys, "check", tmp_path / "pku", "--split", "view", "--untrimmed", "--json")
    assert code == 0 and json.loads(out)["splits"]["train"]["frames"] == 24
    store: Path = tmp_path / "s.h5"
    assert sal(capsys, "prepare", tmp_path / "pku", "--split", "view", "--untrimmed", "--out", store)[0] == 0
    assert open_sequences(store).splits["test"].labels(0).tolist() == [0] * 2 + [3] * 5 + [0] * 5
    code, _, err = sal(capsys, "prepare", store, "--out", tmp_path / "t.h5")
    assert code == 65 and "already a store" in err
    code, _, err = sal(capsys, "show", store, "A01N01-L", "--out", tmp_path / "x.html")
    assert code == 65 and "where one of clips is wanted" in err
