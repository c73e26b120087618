"""The baselines behind one name: an MLP that knows no skeleton and a small ST-GCN that knows nothing else."""

from __future__ import annotations

from torch import Tensor, nn

from models.baselines.mlp import MLP
from models.baselines.stgcn import STGCN
from shared_data.errors import LabError, require_known
from shared_data.skeletons import Skeleton
from shared_data.skeletons import skeleton as skeleton_named

ARCHITECTURES = ("mlp", "stgcn")
COORDINATES = 3


class Baseline(nn.Module):
    """Skeleton clips to class scores.

    num_classes   K
    skeleton      joint layout, by name or as an object: V, and the edges of the graph
    people        M of the clips; absent people are zero
    architecture  "mlp" or "stgcn"
    dropout       rate behind each hidden layer (mlp), in front of the classifier (stgcn)

    Raises `UsageError` for another architecture.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str | Skeleton = "ntu25",
        people: int = 2,
        architecture: str = "stgcn",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layout = skeleton_named(skeleton) if isinstance(skeleton, str) else skeleton
        require_known("architecture", architecture, ARCHITECTURES)
        self.people, self.joints = people, layout.joints
        coordinates = people * layout.joints * COORDINATES
        self.network: nn.Module
        if architecture == "mlp":
            self.network = MLP(num_classes, coordinates=coordinates, dropout=dropout)
        else:
            self.network = STGCN(num_classes, skeleton=layout, people=people, coordinates=coordinates, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, V, M) to logits (N, K). Raises `LabError` for another shape."""
        wanted = (COORDINATES, self.joints, self.people)
        if x.dim() != 5 or (x.shape[1], *x.shape[3:]) != wanted:
            raise LabError(
                f"the baseline was given clips of shape {tuple(x.shape)}",
                expected=f"(N, {COORDINATES}, T, {self.joints}, {self.people}): coordinates, frames, joints, people",
                next_step="build the model for the skeleton and the people of the data",
            )
        return self.network(x)
