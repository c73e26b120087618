"""`sal data ...`: look at a data file, convert it, draw a clip of it, list labelled ones. Heavy imports stay inside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engine.errors import ConfigError
from sal import verbs
from sal.printing import PipedConsole, print_json
from shared_data.errors import nearest
from shared_data.formats.options import ReadOptions

if TYPE_CHECKING:
    from shared_data.formats.source import Progress


def check(file: Path, options: ReadOptions, layout: str = "auto", json: bool = False, untrimmed: bool = False) -> int:
    """Say what a data file holds and whether it can be trusted; exit 65 if not.

    Args:
        file: file or folder of any known layout.
        layout: auto, or one of those in docs/your-data.md.
        json: print one JSON object instead of tables.
        untrimmed: whole videos with a class per frame, not clips; understood where the file can be nothing else.
    """
    from shared_data.check import CheckReport
    from shared_data.check import check as check_clips
    from shared_data.check_sequences import SequenceReport, check_sequences

    report: CheckReport | SequenceReport
    with _bar("checking", shown=not json) as progress:
        examine = check_sequences if _videos(file, layout, untrimmed) else check_clips
        report = examine(file, layout=layout, options=options, progress=progress)
    if json:
        print_json(report.as_dict())
    else:
        report.render(PipedConsole())
    return 0 if report.ok else 65


def prepare(file: Path, options: ReadOptions, layout: str = "auto", untrimmed: bool = False, *, out: Path) -> int:
    """Convert a data file to the store: ragged, checked, memory-mapped at use.

    Args:
        file: file or folder to convert.
        layout: auto, or one of those in docs/your-data.md.
        untrimmed: whole videos with a class per frame, not clips; understood where the file can be nothing else.
        out: the store to write (HDF5, by custom .h5); an older store of that name, of the same kind, is replaced.
    """
    from shared_data.sequence_store import prepare_sequences
    from shared_data.store import prepare as prepare_clips

    with _bar("preparing") as progress:
        make_store = prepare_sequences if _videos(file, layout, untrimmed) else prepare_clips
        made = make_store(file, out, layout=layout, options=options, progress=progress)
    print(made)
    return 0


def convert(file: Path, options: ReadOptions, layout: str = "auto", *, to: str, out: Path, frames: int | None = None) -> int:
    """Write a data file in the format of another project; only a store keeps float64 (NW-UCLA), the others hold float32.

    Args:
        file: file or folder of any known layout, or a store.
        layout: auto, or one of those in docs/your-data.md.
        to: store, kaggle, skeleton5d or pyskl.
        out: file to write.
        frames: frames per clip of a padded format; default: as the source.
    """
    from shared_data.convert import convert as write

    with _bar("converting") as progress:
        made = write(file, out, to=to, frames=frames, layout=layout, options=options, progress=progress)
    print(made)
    return 0


def import_(folder: Path, *, out: Path, on_bad: str = "refuse") -> int:
    """Your own recordings, a file per clip and labels.csv, to the store (docs/your-data.md).

    Args:
        folder: folder or zip of the recordings.
        out: the store to write, a .h5 file.
        on_bad: refuse or drop clips with NaN, infinity or no content.
    """
    prepare(folder, ReadOptions(on_bad=on_bad), "per_clip", out=out)
    return check(out, ReadOptions())


def info(file: Path) -> int:
    """Print what a prepared store or data file says about itself.

    Args:
        file: store, NPZ, folder or zip.
    """
    from shared_data.check_sequences import stored_info
    from shared_data.formats.look import look
    from shared_data.formats.sequence_file import is_ours
    from shared_data.store import info as ask

    print_json(stored_info(file) if is_ours(look(file)) else ask(file))
    return 0


def show(
    file: Path,
    clip: str,
    options: ReadOptions,
    layout: str = "auto",
    *,
    out: Path,
    part: str | None = None,
    frames: int | None = None,
    fps: float = 30.0,
    turn: float = 0.0,
) -> int:
    """Draw one clip as a page, a moving picture or a film strip.

    Args:
        file: data file of any known layout.
        clip: id of the clip (train_17, a01_s01_e00_v01), or its row number with --part.
        layout: auto, or one of those in docs/your-data.md.
        out: file to write: .html, .gif or .png (the last two need Pillow: pip install '.[draw]').
        part: train or test.
        frames: pictures at most.
        fps: frames per second of the recording.
        turn: degrees by which to turn the people about the vertical axis.
    """
    from shared_data.datasets import open_data
    from shared_data.show import show as draw

    data = open_data(file, layout=layout, options=options)
    made = draw(data, clip, out, split=part, frames=frames, fps=fps, turn=turn)
    print(made)
    return 0


def labelled(
    file: Path, options: ReadOptions, layout: str = "auto", *, share: str, out: Path, seed: int | None = None, force: bool = False
) -> int:
    """Write lists of labelled clips for semi-supervised runs (--labelled LIST): whoever has one sees the same labels.

    Args:
        file: data file of any known layout; its training clips are drawn from.
        layout: auto, or one of those in docs/your-data.md.
        share: 1%, 10% ... of each class, at least one clip; mamp:10% of all clips together, as MAMP's code draws.
        out: the list to write; without --seed LIST_0.txt to LIST_4.txt beside it.
        seed: which draw; default: the five of 0 to 4, whose mean is to be given.
        force: replace lists that are there.
    """
    from engine import labelled as lists
    from shared_data.datasets import open_data

    wish = lists.asked(share)
    if isinstance(wish, Path) or "/" in share:
        raise ConfigError(
            f"{share!r} is no share", where="--share", expected="1%, 10% or mamp:10%", next_step="--seed 3 is draw 3"
        )
    percent, _, how = wish
    seeds = lists.DRAWS if seed is None else (seed,)
    files = [out.with_stem(f"{out.stem}_{number}") for number in seeds] if seed is None else [out]
    if not force and (there := [str(path) for path in files if path.exists()]):
        raise ConfigError("there is such a file already", where=there[0], next_step="another --out, or --force")
    train = open_data(file, layout=layout, options=options).train
    drawn = [lists.draw(train.ids, train.labels, percent, number, how) for number in seeds]
    for path, chosen in zip(files, drawn, strict=True):
        lists.write(path, chosen)
        print(f"{path}: {len(chosen.ids)} of {chosen.of} clips, draw {chosen.seed}, sha256 {chosen.sha256}")
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "check": check, "prepare": prepare, "convert": convert, "import": import_, "info": info, "show": show, "labelled": labelled,
}  # fmt: skip


def run(argv: list[str]) -> int:
    """`sal data VERB ...`."""
    names = " | ".join(VERBS)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: sal data {names}   (sal data check --help)")
        return 0
    if argv[0] not in VERBS:
        raise ConfigError(f"no verb 'data {argv[0]}'{nearest(argv[0], list(VERBS))}", expected=names)
    return verbs.typed(VERBS[argv[0]], f"data {argv[0]}")(argv[1:])


def _videos(file: Path, layout: str, untrimmed: bool) -> bool:
    """Whether a file is to be read as untrimmed sequences: asked for, or it can be nothing else."""
    from shared_data.formats.untrimmed import only_untrimmed

    return untrimmed or only_untrimmed(file, layout)


@contextlib.contextmanager
def _bar(title: str, *, shown: bool = True) -> Iterator[Progress | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
