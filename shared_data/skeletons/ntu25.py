"""The 25 joints of Kinect v2. Source: the Kinect SDK's joint names; the published readers' bone pairs and joint orders."""

from __future__ import annotations

from shared_data.skeletons.layout import Skeleton, numbers, pairs

_LIMBS = "3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 19-18 20-19"  # everybody agrees
_FINGERS_IN_A_ROW = "22-23 23-8 24-25 25-12"  # tip, thumb, hand
_FINGERS_ON_THE_HAND = "22-8 23-8 24-12 25-12"
_TIPS_ON_THE_HAND = "22-8 23-7 24-12 25-11"  # and the thumbs on the wrist
_BONES = pairs(f"{_LIMBS} 1-2 2-21 21-21 {_FINGERS_IN_A_ROW}")

NTU25 = Skeleton(
    name="ntu25",
    title="Kinect v2, 25 joints (NTU RGB+D 60/120, PKU-MMD)",
    joints=25,
    joint_names=(
        "spine base", "spine middle", "neck", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
        "spine at the shoulders", "left hand tip", "left thumb", "right hand tip", "right thumb",
    ),
    edges=pairs(f"{_LIMBS} 1-2 2-21 {_FINGERS_IN_A_ROW}"),
    bones=_BONES,
    centre=20,
    mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
    parts={
        "left arm": numbers("5 6 7 8 22 23"),
        "right arm": numbers("9 10 11 12 24 25"),
        "left leg": numbers("13 14 15 16"),
        "right leg": numbers("17 18 19 20"),
        "trunk": numbers("1 2 3 4 21"),
    },
    bone_tables={
        # Also MS-G3D, SCD-Net, MAMP, STARS, ISC, USDRL, pyskl.
        "ctrgcn": _BONES,
        # Its reader puts the trajectory of joint 21 where that joint's bone would be 0.
        "hypergcn": pairs(f"{_LIMBS} 1-2 2-21 21-21 {_FINGERS_ON_THE_HAND}"),
        "skateformer": pairs(f"{_LIMBS} 1-2 21-2 2-2 {_FINGERS_ON_THE_HAND}"),
        # The tree of its graph and joint transform; its reader publishes no bone stream for these joints.
        "freqmixformer": pairs(f"{_LIMBS} 1-2 21-2 2-2 {_FINGERS_IN_A_ROW}"),
        # The tree of its graph; its reader has no bone stream.
        "lasa": pairs(f"{_LIMBS} 2-1 1-1 21-2 {_TIPS_ON_THE_HAND}"),
    },
    orders={"skateformer": numbers("7 8 22 23  11 12 24 25  13 14 15 16  17 18 19 20  5 9 6 10  2 3 1 4")},
)  # fmt: skip
