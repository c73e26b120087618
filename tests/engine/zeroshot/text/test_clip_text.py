"""CLIP's text tower against PyTorch's own transformer layers, and its weights out of files that are not run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine import torch_archive
from engine.errors import WeightsError
from engine.zeroshot.text import clip_text
from engine.zeroshot.text.clip_text import PUBLISHED, Shape, TextTower
from engine.zeroshot.text.clip_tokens import tokenizer
from shared_data.errors import DataError, MissingInputError

SMALL = Shape(vocabulary=514 + 2, context=12, width=32, blocks=3, heads=4, vector=20)
TOKENIZER = tokenizer([("s", "i"), ("si", "t</w>")])
TEXTS = ["sit", "a sit", "", "sit-sit sit", "abcdefghij"]


def official_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the text entries of an official state dict, written out."""
    w = shape.width
    found: dict[str, tuple[int, ...]] = {"positional_embedding": (shape.context, w), "text_projection": (w, shape.vector)}
    found |= {"token_embedding.weight": (shape.vocabulary, w), "ln_final.weight": (w,), "ln_final.bias": (w,)}
    for n in range(shape.blocks):
        block = f"transformer.resblocks.{n}"
        found |= {f"{block}.attn.in_proj_weight": (3 * w, w), f"{block}.attn.in_proj_bias": (3 * w,)}
        found |= {f"{block}.attn.out_proj.weight": (w, w), f"{block}.attn.out_proj.bias": (w,)}
        found |= {f"{block}.mlp.c_fc.weight": (4 * w, w), f"{block}.mlp.c_fc.bias": (4 * w,)}
        found |= {f"{block}.mlp.c_proj.weight": (w, 4 * w), f"{block}.mlp.c_proj.bias": (w,)}
        found |= {f"{block}.{name}.{kind}": (w,) for name in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    return found


def random_state(shape: Shape = SMALL, *, patch: int = 32) -> dict[str, Tensor]:
    """Random weights in the official layout, with some of the entries that are not the text tower's."""
    torch.manual_seed(3)
    state = {name: torch.randn(size) * 0.3 for name, size in official_shapes(shape).items()}
    return state | {"logit_scale": torch.tensor(4.6), "visual.conv1.weight": torch.randn(8, 3, patch, patch)}


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def reference(state: dict[str, Tensor], tokens: Tensor, shape: Shape) -> Tensor:
    """The vectors by PyTorch's encoder layers in double precision, on whole rows of tokens."""
    x = state["token_embedding.weight"].double()[tokens] + state["positional_embedding"].double()
    mask = nn.Transformer.generate_square_subsequent_mask(shape.context, dtype=torch.float64)
    renamed = {"attn": "self_attn", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2", "ln_1": "norm1", "ln_2": "norm2"}
    for n in range(shape.blocks):
        layer = nn.TransformerEncoderLayer(
            shape.width, shape.heads, 4 * shape.width, 0.0, QuickGelu(), batch_first=True, norm_first=True, dtype=torch.float64
        )
        inner = {k.removeprefix(f"transformer.resblocks.{n}."): v for k, v in state.items() if f"resblocks.{n}." in k}
        for theirs, name in renamed.items():
            inner = {f"{name}{k.removeprefix(theirs)}" if k.startswith(f"{theirs}.") else k: v for k, v in inner.items()}
        layer.load_state_dict(inner)
        x = layer(x, src_mask=mask, is_causal=True)
    x = nn.functional.layer_norm(x, (shape.width,), state["ln_final.weight"].double(), state["ln_final.bias"].double())
    ends = (tokens == shape.vocabulary - 1).int().argmax(1)
    return x[torch.arange(len(tokens)), ends] @ state["text_projection"].double()


def test_the_tower_computes_what_pytorchs_layers_compute() -> None:
    state = random_state()
    tower = clip_text.from_official(state, TextTower(SMALL))
    expected = reference(state, TOKENIZER.batch(TEXTS, SMALL.context), SMALL).detach().numpy()
    found = clip_text.features(tower, TOKENIZER, TEXTS)
    assert found.dtype == np.float32 and found.shape == (5, 20)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_vectors_do_not_depend_on_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = clip_text.from_official(random_state(), TextTower(SMALL))
    together = clip_text.features(tower, TOKENIZER, TEXTS)
    alone = np.concatenate([clip_text.features(tower, TOKENIZER, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(clip_text, "AT_ONCE", 2)
    np.testing.assert_allclose(clip_text.features(tower, TOKENIZER, TEXTS), together, rtol=1e-4, atol=1e-5)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        tower = TextTower()
    shapes = official_shapes(PUBLISHED)
    assert sum(value.numel() for value in tower.parameters()) == sum(int(np.prod(size)) for size in shapes.values()) == 63_428_096
    rows = clip_text.table(PUBLISHED)
    assert {row.official for row in rows} == set(shapes) and len(rows) == len(shapes) == 149
    for row in rows:
        assert tuple(tower.state_dict()[row.ours].shape) == shapes[row.official]


def test_a_tokenizer_of_another_vocabulary_is_refused() -> None:
    tower = clip_text.from_official(random_state(), TextTower(SMALL))
    with pytest.raises(WeightsError, match="tokenizer is not the tower's"):
        clip_text.features(tower, tokenizer([]), TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_final.bias": None}, "1 missing: ln_final.bias"),
        ({"transformer.resblocks.3.ln_1.bias": torch.zeros(32)}, "1 unexpected: transformer.resblocks.3.ln_1.bias"),
        ({"text_projection": torch.zeros(32, 21)}, "1 of another shape: text_projection"),
        ({"ln_final.bias": torch.full((32,), torch.nan)}, r"numbers that are none\n.*ln_final.bias"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, Tensor | None], message: str) -> None:
    state = {k: v for k, v in (random_state() | change).items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        clip_text.from_official(state, TextTower(SMALL))


def scripted(state: dict[str, Tensor]) -> torch.jit.ScriptModule:
    """A TorchScript module with the entries of `state` in half precision and CLIP's kinds of attributes beside them."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.register_parameter(last, nn.Parameter(value.half()))
    root.register_buffer("input_resolution", torch.tensor(224))
    root.sizes, root.title = [3, 4], "a title"
    return torch.jit.script(root)


def saved(folder: Path, form: str, state: dict[str, Tensor]) -> Path:
    path = folder / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "script":
        torch.jit.save(scripted(state), path)
    elif form == "state dict":
        values = OrderedDict(state)
        values._metadata = OrderedDict({"": {"version": 1}})  # as state_dict() leaves it
        torch.save(values, path)
    else:
        torch.save({name: nn.Parameter(value) for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "script", "state dict", "parameters"])
def test_weights_out_of_every_form_of_file(tmp_path: Path, form: str) -> None:
    state = random_state()
    path = saved(tmp_path, form, state)
    tower = clip_text.load(path, "ViT-B/32", SMALL)
    assert not tower.training and all(value.dtype == torch.float32 for value in tower.parameters())
    expected = clip_text.from_official({k: v.half() if form == "script" else v for k, v in state.items()}, TextTower(SMALL))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in tower.state_dict().items())
    with pytest.raises(WeightsError, match=r"not of CLIP ViT-B/16\n.*visual.conv1.weight"):
        clip_text.load(path, "ViT-B/16", SMALL)


def test_the_image_tower_is_not_read(tmp_path: Path) -> None:
    found = torch_archive.read(saved(tmp_path, "script", random_state()), lambda name: not name.startswith("visual."))
    assert found["visual.conv1.weight"].is_meta and found["visual.conv1.weight"].shape == (8, 3, 32, 32)
    assert found["ln_final.bias"].dtype == torch.float16 and not found["ln_final.bias"].is_meta


def test_views_and_shared_numbers(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"turned": whole.t(), "part": whole[1:3, ::2], "empty": whole[:0], "single": whole[2, 3], "flags": whole > 3}
    torch.save(state, tmp_path / "views.pt")
    found = torch_archive.read(tmp_path / "views.pt")
    assert list(found) == list(state) and all(torch.equal(found[k], v) for k, v in state.items())


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def archive(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"w/data/{name}", content)
    return path


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    for protocol in (2, 4):
        data = pickle.dumps({"ln_final.bias": Hostile(tmp_path / "ran")}, protocol=protocol)
        with pytest.raises(DataError, match=r"could run code|operation STACK_GLOBAL"):
            clip_text.load(archive(tmp_path / "w.pt", data), "ViT-B/32", SMALL)
    assert not (tmp_path / "ran").exists()


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"  # four numbers


def tensor(offset: bytes = b"K\x00", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR"


def named(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."


def test_a_pickle_by_hand(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype="<f4").tobytes()
    found = torch_archive.read(archive(tmp_path / "w.pt", named(tensor()), **{"0": numbers}))
    assert found["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (named(tensor(offset=b"K\x01")), "beyond its numbers"),
        (named(tensor(size=b"K\x05\x85")), "beyond its numbers"),
        (named(tensor(stride=b"K\x02\x85")), "beyond its numbers"),
        (named(tensor(size=b"J\x00\x00\x00\x40\x85", stride=b"K\x00\x85")), "beyond its numbers"),  # 2^30 times one number
        (named(tensor(size=b"J\xff\xff\xff\xff\x85")), "no possible shape"),
        (named(tensor(offset=b"J\xff\xff\xff\xff")), "no possible shape"),
        (named(tensor(size=b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85")), "no possible shape"),  # 2^40
        (named(b"cos\nsystem\n(X\x01\x00\x00\x00xtR"), "a call of os.system"),
        (named(b"cos\nsystem\n)\x81"), "an object of os.system"),
        (named(b"c__torch__.x\nY\n(K\x01t\x81"), "an object of __torch__.x.Y"),
        (named(b"X\x01\x00\x00\x00xQ"), "a reference to something other"),
        (named(b"K\x01}b"), "a state for something"),
        (named(b"K\x01"), "no named tensors"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "deeper named values"),  # a dict within itself
        (b"\x80\x02}q\x00(" + b"".join(b"K%ch\x00" % n for n in range(1, 9)) + b"u.", "more or deeper named values"),
        (named(tensor())[:-3], "ends too early"),
        (b"", "ends too early"),
    ],
)
def test_a_damaged_or_hostile_pickle(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        torch_archive.read(archive(tmp_path / "w.pt", data, **{"0": np.zeros(4, "<f4").tobytes()}))
    assert str(tmp_path / "w.pt") in str(refusal.value)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(DataError, match="not complete"):
        torch_archive.read(archive(path, named(tensor())))
    with pytest.raises(DataError, match="8 bytes of numbers"):
        torch_archive.read(archive(path, named(tensor()), **{"0": b"8 bytes!"}))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", b"\x80\x02" + b"0" * 100_000)
    with pytest.raises(DataError, match="compressed"):
        torch_archive.read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme", b"")
    with pytest.raises(DataError, match="no tensors of PyTorch"):
        torch_archive.read(path)
    whole = saved(tmp_path, "script", random_state()).read_bytes()
    at = whole.index(b"ln_final")
    path.write_bytes(whole[:at] + b"xx" + whole[at + 2 :])  # the archive's checksum no longer holds
    with pytest.raises(DataError, match="no archive of tensors"):
        torch_archive.read(path)


def test_no_file_and_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        clip_text.load(tmp_path / "w.pt", "ViT-B/32")
    old = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    (tmp_path / "w.pt").write_bytes(old.getvalue())
    with pytest.raises(WeightsError, match="will not open a pickled") as refusal:
        clip_text.load(tmp_path / "w.pt", "ViT-B/32")
    assert "safetensors" in refusal.value.next_step
