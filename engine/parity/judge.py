"""`judge`: which kind of fixture a file is, and its lines."""

from __future__ import annotations

from pathlib import Path

from engine.parity import fixture as fixtures
from engine.parity import forward, pretraining, segmentation, trajectory, zeroshot
from engine.parity.fixture import FixtureError
from engine.parity.lines import Line
from shared_data.errors import LabError


def judge(path: Path | str) -> list[Line]:
    """One line per quantity of the fixture at `path`; none for a file of clips, which only lies beside fixtures.

    Metadata with `groups` is an input pipeline, with `steps` a training run, anything else one forward and backward pass; those
    of a zero-shot system, which is five networks, of segmentation and of learning without labels have judges of their own. A file
    that cannot be used (no fixture, no such model, its sibling missing) raises `FixtureError`, exit code 2.
    """
    fixture = fixtures.load(path)
    try:
        if {"x_train", "x_test"} <= set(fixture.arrays):
            return []  # the clips that other fixtures are about
        if "groups" in fixture.meta:
            from engine.parity import pipelines

            return pipelines.judge(fixture.path)
        if zeroshot.is_zeroshot(fixture):
            return zeroshot.judge(fixture)
        if segmentation.is_segmentation(fixture):
            return segmentation.judge(fixture)
        if pretraining.is_pretraining(fixture):
            return pretraining.judge(fixture)
        return (trajectory.judge if "steps" in fixture.meta else forward.judge)(fixture)
    except FixtureError:
        raise
    except LabError as error:
        raise FixtureError(
            f"the fixture cannot be judged: {error.what}",
            where="; ".join(filter(None, [str(fixture.path), error.where])),
            expected=error.expected,
            next_step=error.next_step,
        ) from error
