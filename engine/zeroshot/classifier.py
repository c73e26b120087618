"""The classifier of unseen classes: it learns from latents of their texts, and judges latents of skeletons."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.zeroshot.draws import normals
from engine.zeroshot.network import AlignedVAE, LatentClassifier, initialise, reparameterised
from engine.zeroshot.optimizer import adam
from engine.zeroshot.settings import Settings
from shared_data.batches.randomness import ZERO_SHOT_LATENTS, sample_keys

TURN = 1 << 16  # of the start weights, plus the cycle: the autoencoders have turn 0


def train_classifier(network: AlignedVAE, text: Tensor, settings: Settings, *, seed: int, cycle: int) -> LatentClassifier:
    """A new classifier for the classes of `text` (U, Dt), in their order.

    `settings.samples` latents of each class are drawn once from the text encoder; every step sees them all. Draws and start
    weights are a function of (seed, cycle).
    """
    count = len(text) * settings.samples
    noise = normals(seed, cycle, sample_keys(np.arange(count)), ZERO_SHOT_LATENTS, settings.noise_width)
    labels = torch.arange(len(text), device=text.device).repeat_interleave(settings.samples)
    network.eval()
    with torch.no_grad():
        mean, log_variance = network.text_encoder(text)
        latents = reparameterised(mean[labels], log_variance[labels], torch.from_numpy(noise).to(mean))
    classifier = LatentClassifier(settings.latent, len(text), relu=settings.relu_logits).to(latents)
    initialise(classifier, seed, turn=TURN + cycle)
    optimizer = adam(classifier, settings.classifier_lr)
    for _ in range(settings.classifier_steps):
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(classifier(latents), labels))
        optimizer.step()
    return classifier.eval()


@torch.no_grad()
def judged(network: AlignedVAE, classifier: LatentClassifier, features: Tensor) -> Tensor:
    """(N, U) probabilities of the unseen classes, each row summing to 1, for skeleton `features` (N, D): from latents' means."""
    mean, _ = network.skeleton_encoder(features)
    probabilities: Tensor = classifier(mean).softmax(1)
    return probabilities


def probabilities(network: AlignedVAE, classifier: LatentClassifier, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same for features on the host, all of them at once."""
    rows = torch.from_numpy(features).to(classifier.affine.weight)
    return np.asarray(judged(network, classifier, rows).cpu().numpy())
