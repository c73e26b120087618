"""The 17 keypoints of COCO, which most image pose estimators give: x, y and a score, or x, y, z if lifted.

Source: COCO's keypoint names. COCO has no spine, so the tree hangs shoulders on the nose and hips on the shoulders.
"""

from __future__ import annotations

from shared_data.skeletons.layout import Skeleton

_EDGES = (
    (1, 0), (2, 0), (3, 1), (4, 2), (5, 0), (6, 0), (7, 5), (8, 6), (9, 7), (10, 8), (11, 5), (12, 6), (13, 11), (14, 12),
    (15, 13), (16, 14),
)  # fmt: skip
_BONES = ((0, 0), *_EDGES)

COCO17 = Skeleton(
    name="coco17",
    title="COCO, 17 keypoints",
    joints=17,
    joint_names=(
        "nose", "left eye", "right eye", "left ear", "right ear",
        "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
        "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    edges=_EDGES,
    bones=_BONES,
    centre=0,
    mirror=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    parts={
        "left arm": (5, 7, 9),
        "right arm": (6, 8, 10),
        "left leg": (11, 13, 15),
        "right leg": (12, 14, 16),
        "trunk": (0, 1, 2, 3, 4),
    },
    bone_tables={"ctrgcn": _BONES},
)  # fmt: skip
