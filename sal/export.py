"""`sal export`: a trained network as an ONNX file."""

from __future__ import annotations

from pathlib import Path


def export(run: Path, *, out: Path) -> int:
    """Write the best weights of a run as an ONNX file that takes any number of clips (needs the extra onnx).

    Args:
        run: a run folder.
        out: the file to write; one that is there is not replaced.
    """
    from engine.export import export_run

    print(export_run(run, out))
    return 0
