"""The 18 joints of OpenPose as Kinetics-Skeleton holds them: x, y and a score, no depth.

Source: OpenPose's COCO output; edges and bone pairs as published with MS-G3D, whose graph is rooted at the neck and whose
bones are rooted at the nose.
"""

from __future__ import annotations

from shared_data.skeletons.layout import Skeleton

_BONES = (
    (0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6), (8, 2), (9, 8), (10, 9), (11, 5), (12, 11), (13, 12),
    (14, 0), (15, 0), (16, 14), (17, 15),
)  # fmt: skip

KINETICS18 = Skeleton(
    name="kinetics18",
    title="OpenPose, 18 joints (Kinetics-Skeleton)",
    joints=18,
    joint_names=(
        "nose", "neck",
        "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
        "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
        "right eye", "left eye", "right ear", "left ear",
    ),
    edges=(
        (4, 3), (3, 2), (7, 6), (6, 5), (13, 12), (12, 11), (10, 9), (9, 8), (11, 5), (8, 2), (5, 1), (2, 1), (0, 1),
        (15, 0), (14, 0), (17, 15), (16, 14),
    ),
    bones=_BONES,
    centre=1,
    mirror=(0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16),
    parts={
        "left arm": (5, 6, 7),
        "right arm": (2, 3, 4),
        "left leg": (11, 12, 13),
        "right leg": (8, 9, 10),
        "trunk": (0, 1, 14, 15, 16, 17),
    },
    bone_tables={"ctrgcn": _BONES},
)  # fmt: skip
