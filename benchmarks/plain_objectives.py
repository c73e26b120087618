"""The plain objectives: pretraining and tuning steps in the way of the official codes, as something to compare ours with.

They are not the official code. Encoders are those of `tests/models/M/naive.py`, written from the specifications, nothing fused,
or are written out here; around them a step does what the official ones do:

    Skeleton-Contrastive   the GRUs are called frame by frame; momentum encoders follow parameter by parameter
    SCD-Net                the naive stems, torch's transformer layer, a contrast at a time
    MAMP                   all tokens are embedded, then shuffled; attention stores its map of weights
    STARS                  both views go through the encoder, though they are the same; so do gradients, also where nothing learns
    USDRL                  a forward pass for each view; covariances and cross-correlations as matrices of D x D

Attention in them is the softmax of all products, whatever torch has a kernel for (`stored_attention`). Each is an
`engine.pretraining.objective.Objective` with the official names, so that our step trains it and our tables rename its weights.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import models
from engine.models import ModelCard
from engine.official import to_official
from engine.pretraining.objective import Embedded
from shared_data.skeletons import Skeleton

Terms = tuple[Tensor, dict[str, Tensor]]


@contextlib.contextmanager
def stored_attention() -> Iterator[None]:
    """Inside, attention is its formula: the products, their softmax, the weighted sum, each a tensor of its own."""

    def attention(queries: Tensor, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Tensor:
        return ((queries @ keys.transpose(-2, -1)) / math.sqrt(queries.shape[-1])).softmax(-1) @ values

    with mock.patch.object(F, "scaled_dot_product_attention", attention):
        yield


class Plain(nn.Module):
    """What all have: nothing to begin with, nothing to finish, their features."""

    in_batch = True

    def begin(self) -> None:
        pass

    def finish(self, embedded: Embedded) -> None:
        pass

    def features(self, embedded: Embedded) -> Tensor:
        return embedded["features"]


def followed(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """MoCo's momentum encoder, parameter by parameter."""
    with torch.no_grad():
        for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
            slow.copy_(slow * momentum + fast * (1.0 - momentum))


def contrast(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of (N, D) and (N, D) over a queue (D, K)."""
    positive = torch.einsum("nd,nd->n", queries, keys).unsqueeze(-1)
    negative = torch.einsum("nd,dk->nk", queries, queue.clone().detach())
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


class Queues(Plain):
    """Queues of keys. Their pointers are read by the host officially; numbers of Python stand for that here."""

    def queue(self, name: str, pointer: str, dim: int, size: int) -> None:
        self.register_buffer(name, torch.zeros(dim, size))
        self.register_buffer(pointer, torch.zeros(1, dtype=torch.int64))
        self.at = getattr(self, "at", {}) | {name: 0}

    def enter(self, name: str, keys: Tensor) -> None:
        """Keys (N, D), of which a queue holds a multiple."""
        held, first = getattr(self, name), self.at[name]
        held[:, first : first + len(keys)] = keys.T
        self.at[name] = (first + len(keys)) % held.shape[1]


class PlainMoCo(Queues):
    """Skeleton-Contrastive between two representations: q, k of the first, r, l of the second."""

    encoder_q: Any
    encoder_r: Any
    encoder_k: Any
    encoder_l: Any
    Queue_S1: Any
    Queue_S2: Any

    def __init__(self, ours: Any, layout: Skeleton, people: int) -> None:
        super().__init__()
        naive = importlib.import_module("tests.models.isc.naive")
        made = {"seq": _NaiveSequence(naive), "graph": naive.NaiveAGCN, "image": naive.NaiveHCN}
        self.names, self.momentum, self.temperature = ours.representations, ours.momentum, ours.temperature
        first, second = self.names
        for name, roles in ((first, "qk"), (second, "rl")):
            width = {"hidden" if name == "seq" else "width": w for w in [ours.sizes[name].get("width")] if w}
            for role in roles:
                encoder = made[name](1, layout, people, **width)
                features = encoder.fc.in_features
                encoder.fc = nn.Sequential(
                    nn.Linear(features, features), nn.ReLU(), nn.Linear(features, len(ours.queue[name].features))
                )
                self.add_module(f"encoder_{role}", encoder)
        for role in "kl":
            getattr(self, f"encoder_{role}").requires_grad_(False)
        for number, name in enumerate(self.names, 1):
            self.queue(f"Queue_S{number}", f"queue_ptr_S{number}", *ours.queue[name].features.shape)

    def begin(self) -> None:
        followed(self.encoder_k, self.encoder_q, self.momentum)
        followed(self.encoder_l, self.encoder_r, self.momentum)

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        q, r = (F.normalize(encoder(views[:, 0]), dim=1) for encoder in (self.encoder_q, self.encoder_r))
        with torch.no_grad():
            k, l_ = (F.normalize(encoder(views[:, 1]), dim=1) for encoder in (self.encoder_k, self.encoder_l))
        return {"q": q, "r": r, "k": k, "l": l_}

    def loss(self, embedded: Embedded) -> Terms:
        one = contrast(embedded["q"], embedded["l"], self.Queue_S2, self.temperature)
        other = contrast(embedded["r"], embedded["k"], self.Queue_S1, self.temperature)
        return one + other, {}

    def finish(self, embedded: Embedded) -> None:
        self.enter("Queue_S1", embedded["k"])
        self.enter("Queue_S2", embedded["l"])

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.encoder_q}

    def features(self, embedded: Embedded) -> Tensor:
        return torch.stack([embedded["q"], embedded["l"]], 1)


class _NaiveSequence:
    """`NaiveBiGRU` whose frames become rows in one step: its loop over their numbers is the judge's alone."""

    def __init__(self, naive: Any) -> None:
        self.naive = naive

    def __call__(self, *size: Any, **given: Any) -> Any:
        network = self.naive.NaiveBiGRU(*size, **given)
        network.forward = lambda x: network.fc(network.encoder(x.permute(0, 2, 3, 1, 4).flatten(2)))
        return network


class PlainDisentanglement(Queues):
    """SCD-Net; without dropout."""

    encoder_q: Any
    encoder_k: Any
    t_queue: Any
    s_queue: Any
    i_queue: Any

    def __init__(self, ours: Any, layout: Skeleton, people: int) -> None:
        super().__init__()
        naive = importlib.import_module("tests.models.scdnet.naive")
        given = ours.arguments
        dim = len(ours.queues["t"].features)
        size = (dim, layout, people, given["frames"], given["width"], given["heads"], given["layers"])
        self.encoder_q, self.encoder_k = naive.NaiveBranch(*size), naive.NaiveBranch(*size).requires_grad_(False)
        self.momentum, self.temperature = ours.key_momentum, ours.temperature
        for kind in "tsi":
            self.queue(f"{kind}_queue", f"{kind}_queue_ptr", *ours.queues[kind].features.shape)

    def begin(self) -> None:
        followed(self.encoder_k, self.encoder_q, self.momentum)

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        with stored_attention():
            queries = self.encoder_q(views[:, 0])
            with torch.no_grad():
                keys = self.encoder_k(views[:, 1])
        made = {f"q_{kind}": value for kind, value in zip("tsi", queries, strict=True)}
        made |= {f"k_{kind}": value for kind, value in zip("tsi", keys, strict=True)}
        return {name: F.normalize(value, dim=1) for name, value in made.items()}

    def loss(self, embedded: Embedded) -> Terms:
        pairs = (("q_t", "k_i"), ("q_s", "k_i"), ("q_i", "k_t"), ("q_i", "k_s"))
        queues = (self.i_queue, self.i_queue, self.t_queue, self.s_queue)
        terms = [contrast(embedded[q], embedded[k], queue, self.temperature) for (q, k), queue in zip(pairs, queues, strict=True)]
        return terms[0] + terms[1] + terms[2] + terms[3], {}

    def finish(self, embedded: Embedded) -> None:
        for kind in "tsi":
            self.enter(f"{kind}_queue", embedded[f"k_{kind}"])

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.encoder_q.encoder}

    def features(self, embedded: Embedded) -> Tensor:
        return torch.stack([embedded["q_i"], embedded["k_i"]], 1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        s, length, width = x.shape
        q, k, v = self.qkv(x).reshape(s, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        alike = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(-1)
        out: Tensor = self.proj((alike @ v).transpose(1, 2).reshape(s, length, width))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), _Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PlainTransformer(nn.Module):
    """MAMP's encoder: clips (N, C, T, V, M) to tokens of all places (N * M, L, D), before the blocks."""

    joints_embed: Any

    def __init__(self, ours: Any) -> None:
        super().__init__()
        given = ours.arguments
        self.patch, width, hidden = ours.patch, ours.width, int(ours.width * given["mlp_ratio"])
        self.temp_embed = nn.Parameter(torch.zeros(1, ours.steps, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1, ours.joints, width))
        self.joints_embed = nn.Module()
        self.joints_embed.proj = nn.Conv2d(given["in_channels"], width, (self.patch, 1), (self.patch, 1))
        self.blocks = nn.ModuleList(_Block(width, given["heads"], hidden) for _ in ours.blocks)
        self.norm = nn.LayerNorm(width)

    def tokens(self, clips: Tensor) -> Tensor:
        n, c, t, v, m = clips.shape
        x: Tensor = self.joints_embed.proj(clips.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v))
        return (x.permute(0, 2, 3, 1) + self.pos_embed + self.temp_embed).flatten(1, 2)

    def encoded(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        normal: Tensor = self.norm(tokens)
        return normal

    def forward(self, clips: Tensor) -> Tensor:
        """(N, D), the means over tokens and people."""
        features: Tensor = self.encoded(self.tokens(clips)).mean(1).unflatten(0, (len(clips), -1)).mean(1)
        return features


class PlainMaskedMotion(PlainTransformer):
    """MAMP: all places are embedded, shuffled by their scores, the first kept; of the decoder's, put back in order."""

    in_batch = False
    begin, finish, features = Plain.begin, Plain.finish, Plain.features

    def __init__(self, ours: Any, layout: Skeleton, people: int) -> None:
        super().__init__(ours.encoder)
        encoder, decoder = ours.encoder, ours.decoder
        width, heads = decoder.embed.out_features, encoder.arguments["heads"]
        self.keep, self.tau, self.steps = ours.keep, ours.tau, encoder.steps
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_temp_embed = nn.Parameter(torch.zeros(1, encoder.steps, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1, encoder.joints, width))
        self.decoder_embed = nn.Linear(encoder.width, width)
        hidden = int(width * encoder.arguments["mlp_ratio"])
        self.decoder_blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in decoder.blocks)
        self.decoder_norm, self.decoder_pred = nn.LayerNorm(width), nn.Linear(width, decoder.predict.out_features)

    def patches(self, clips: Tensor) -> Tensor:
        """(N * M, L, p * C)."""
        n, c, t, v, m = clips.shape
        x = clips.permute(0, 4, 2, 3, 1).reshape(n * m, t // self.patch, self.patch, v, c)
        return x.permute(0, 1, 3, 2, 4).reshape(n * m, -1, self.patch * c)

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        clips = views[:, 0]
        tokens, patches = self.tokens(clips), self.patches(clips)
        steps = patches.unflatten(1, (self.steps, -1))
        moves = torch.zeros_like(steps)
        moves[:, 1:] = steps[:, 1:] - steps[:, :-1]
        moves[:, 0] = moves[:, 1]
        moved = moves.abs().mean(-1).flatten(1)
        likely = (moved / (self.tau * moved.max(1, keepdim=True).values + 1e-10)).softmax(-1)
        noise = torch.rand(tokens.shape[:2], device=tokens.device)
        scores = likely.log() - torch.log(-torch.log(noise + 1e-10) + 1e-10)
        shuffled = scores.argsort(1)
        back = shuffled.argsort(1)
        keep = shuffled[:, : self.keep]
        encoded = self.encoded(tokens.gather(1, keep.unsqueeze(-1).repeat(1, 1, tokens.shape[-1])))
        mask = torch.ones(tokens.shape[:2], device=tokens.device)
        mask[:, : self.keep] = 0
        mask = mask.gather(1, back)
        known = self.decoder_embed(encoded)
        hidden = self.mask_token.repeat(len(known), tokens.shape[1] - self.keep, 1)
        x = torch.cat([known, hidden], 1).gather(1, back.unsqueeze(-1).repeat(1, 1, known.shape[-1]))
        x = x + (self.decoder_pos_embed + self.decoder_temp_embed).flatten(1, 2)
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.decoder_pred(self.decoder_norm(x))
        motion = torch.zeros_like(clips)
        motion[:, :, :-1] = clips[:, :, 1:] - clips[:, :, :-1]
        target = self.patches(motion)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        error = (((predicted - target) ** 2).mean(-1) * mask).sum(1) / (tokens.shape[1] - self.keep)
        features = encoded.detach().mean(1).unflatten(0, (len(clips), -1)).mean(1)
        return {"error": error.unflatten(0, (len(clips), -1)).mean(1), "features": features}

    def loss(self, embedded: Embedded) -> Terms:
        return embedded["error"].mean(), {}

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self}


class PlainNeighbours(Plain):
    """STARS: two views, which the published settings make the same, each through the whole encoder and its gradients."""

    encoder_student: Any
    queue: Any
    queue_id: Any

    def __init__(self, ours: Any, layout: Skeleton, people: int) -> None:
        super().__init__()
        self.encoder_student = PlainTransformer(ours.encoder)
        width, hidden, size = ours.encoder.width, ours.head.fc1.out_features, ours.queue.features.shape[1]
        head = self.encoder_student.head = nn.Module()
        head.projector = nn.Sequential(nn.BatchNorm1d(width))
        head.predictor = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.temperature, self.at = ours.temperature, 0
        self.register_buffer("queue", torch.zeros(width, size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("queue_id", torch.zeros(size, dtype=torch.int64))

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        made: dict[str, Tensor] = {"ids": ids}
        for number, clips in enumerate((views[:, 0], views[:, -1])):
            features = self.encoder_student(clips)
            z = self.encoder_student.head.projector(features)
            made |= {f"z{number}": F.normalize(z, dim=1), f"features{number}": features}
            made[f"p{number}"] = F.normalize(self.encoder_student.head.predictor(z), dim=1)
        return made

    def loss(self, embedded: Embedded) -> Terms:
        ids, truth = embedded["ids"], torch.arange(len(embedded["ids"]), device=embedded["ids"].device)
        terms = []
        for of, by in ((1, 0), (0, 1)):
            alike = embedded[f"z{of}"].detach() @ self.queue
            alike = torch.where(ids[:, None] == self.queue_id[None], -1.0, alike)
            neighbours = self.queue.T[alike.argmax(1)]
            terms.append(F.cross_entropy(neighbours @ embedded[f"p{by}"].T / self.temperature, truth))
        return (terms[0] + terms[1]) / 2, {}

    def finish(self, embedded: Embedded) -> None:
        keys = embedded["z0"]
        place = slice(self.at, self.at + len(keys))
        self.queue[:, place], self.queue_id[place] = keys.T, embedded["ids"]
        self.at = (self.at + len(keys)) % self.queue.shape[1]

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.encoder_student}

    def features(self, embedded: Embedded) -> Tensor:
        return embedded["features0"].detach()


class PlainDecorrelation(Plain):
    """USDRL with STTR: a forward pass and three projections a view, then all matrices of D x D."""

    backbone: Any

    def __init__(self, ours: Any, layout: Skeleton, people: int) -> None:
        super().__init__()
        naive = importlib.import_module("tests.models.usdrl.naive")
        given = ours.arguments
        size = {name: given[name] for name in ("frames", "width", "heads", "layers", "modality")}
        self.backbone = naive.NaiveBackbone("sttr", people=people, **size)
        self.naive, self.weights = naive, ours.weights
        for letter in "ist":
            layers = ours.projectors[letter]
            (one, two), out = layers.hidden, layers.out
            between = [nn.Linear(one.in_features, one.out_features), nn.BatchNorm1d(one.out_features), nn.ReLU()]
            then = [nn.Linear(two.in_features, two.out_features), nn.BatchNorm1d(two.out_features), nn.ReLU()]
            self.add_module(f"{letter}_proj", nn.Sequential(*between, *then, nn.Linear(out.in_features, out.out_features)))

    def embed(self, views: Tensor, ids: Tensor) -> Embedded:
        made: dict[str, list[Tensor]] = {"t": [], "s": [], "i": [], "features": []}
        with stored_attention(), mock.patch.object(self.naive, "readings", _readings):
            for view in views.unbind(1):
                features = self.backbone(view)
                made["features"].append(features)
                of_frames, of_joints = features.chunk(2, -1)
                for letter, given in (("t", of_frames), ("s", of_joints), ("i", features)):
                    made[letter].append(getattr(self, f"{letter}_proj")(given))
        return {name: torch.stack(found, 1) for name, found in made.items()}

    def loss(self, embedded: Embedded) -> Terms:
        total: Tensor | float = 0.0
        for letter, worth in (("i", 1.0), ("t", 0.5), ("s", 0.5)):
            total = total + worth * self._of(embedded[letter].unbind(1))
        assert isinstance(total, Tensor)
        return total, {}

    def _of(self, z: tuple[Tensor, ...]) -> Tensor:
        """Of the projections (N, D) of each view."""
        n, d = z[0].shape
        centre = (z[0] + z[1] + z[2]) / 3
        sim = sum(F.mse_loss(z[i], z[3]) + F.mse_loss(z[i], centre) for i in range(3))
        vac: Tensor | float = 0.0
        for view in z:
            centred = view - view.mean(0)
            covariances = centred.T @ centred / (n - 1)
            vac = vac + 5 * F.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() + _off_diagonal(covariances).square().sum() / d
        scores = [(view - view.mean(0)) / view.std(0) for view in z]
        xcorr: Tensor | float = 0.0
        for a, b in itertools.combinations(scores, 2):
            correlations = a.T @ b / n
            xcorr = xcorr + (correlations.diagonal() - 1).square().sum() + 0.005 * _off_diagonal(correlations).square().sum()
        found: Tensor = self.weights["sim"] * sim + self.weights["vac"] * vac + self.weights["xcorr"] * xcorr
        return found

    def encoders(self) -> dict[str, nn.Module]:
        return {"": self.backbone}

    def features(self, embedded: Embedded) -> Tensor:
        return embedded["features"][:, :2]


def _readings(clips: Tensor) -> tuple[Tensor, Tensor]:
    """`readings` of the naive backbone without its loop over every number: (N, T, M V C) and (N, M V, T C)."""
    return clips.permute(0, 2, 4, 3, 1).flatten(2), clips.permute(0, 4, 3, 2, 1).flatten(3).flatten(1, 2)


def _off_diagonal(matrix: Tensor) -> Tensor:
    """(D, D) to the D * (D - 1) entries off its diagonal."""
    size = len(matrix)
    return matrix.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()


BUILDERS: Mapping[str, Callable[[Any, Skeleton, int], nn.Module]] = {
    "MoCo": PlainMoCo,
    "Disentanglement": PlainDisentanglement,
    "MaskedMotion": PlainMaskedMotion,
    "Neighbours": PlainNeighbours,
    "DenseDecorrelation": PlainDecorrelation,
}
"""By the name of our objective."""


def plain_objective(card: ModelCard, ours: nn.Module, layout: Skeleton, people: int) -> nn.Module:
    """The plain form of the objective `ours`, with its weights and queues, on the CPU."""
    plain = BUILDERS[type(ours).__name__](ours, layout, people)
    plain.load_state_dict(official_names(card, ours, ours.state_dict()))
    return plain


def official_names(card: ModelCard, ours: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` by our names (weights, or gradients) to those by the names that the plain form has."""
    return to_official(models.import_module(card, "official").pretraining_table(ours), tensors)


def learning(card: ModelCard, ours: nn.Module, plain: nn.Module) -> list[nn.Parameter]:
    """The parameters of the plain form that its optimizer is given: those that learn in ours."""
    named = dict(plain.named_parameters())
    learns = {name: p.detach() for name, p in ours.named_parameters() if p.requires_grad}
    return [named[name] for name in official_names(card, ours, learns)]
