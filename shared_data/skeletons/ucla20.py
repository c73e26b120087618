"""The 20 joints of Kinect v1. Source: the Kinect SDK's joint names; the published readers' bone pairs and joint orders."""

from __future__ import annotations

from shared_data.skeletons.layout import Skeleton, numbers, pairs

_EDGES = pairs("1-2 2-3 4-3 5-3 6-5 7-6 8-7 9-3 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19")
_BONES = (*_EDGES, *pairs("3-3"))

UCLA20 = Skeleton(
    name="ucla20",
    title="Kinect v1, 20 joints (NW-UCLA)",
    joints=20,
    joint_names=(
        "hip centre", "spine", "shoulder centre", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
    ),
    edges=_EDGES,
    bones=_BONES,
    centre=2,
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
    parts={
        "left arm": numbers("5 6 7 8"),
        "right arm": numbers("9 10 11 12"),
        "left leg": numbers("13 14 15 16"),
        "right leg": numbers("17 18 19 20"),
        "trunk": numbers("1 2 3 4"),
    },
    bone_tables={"ctrgcn": _BONES, "hypergcn": _BONES, "skateformer": _BONES, "freqmixformer": _BONES},
    orders={"skateformer": numbers("5 6 7 8  9 10 11 12  13 14 15 16  17 18 19 20  2 3 1 4")},
)  # fmt: skip
