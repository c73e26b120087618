"""A log read in pieces: nothing is missed, and little is kept."""

from __future__ import annotations

import json

import pytest

from orchestrator.log import NETWORK, READ_ONLY, UNCLEAN, Log, Reader

GOOD = json.dumps({"kind": "smoke_result", "assertions": {"forward": True, "loss_error": True}, "note": "ERROR: none"})


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: old file",
        "2024-01-01 ERROR disk",
        "Traceback (most recent call last):",
        "ValueError: x",
        "/a/b.py:3: FutureWarning: gone soon",
        "[W1121 10:00:00 x.cpp:1] something",
        "CRITICAL now",
        "warning: in small letters",
        "error: so ends every command of the lab",
        "[W NNPACK.cpp:64] Could not initialize NNPACK!",
        "[E socket.cpp:957] [c10d] no address",
        "W1121 17:00:00.123000 140 torch/_logging.py:1] slow",
        "Fatal Python error: Aborted",
        "Segmentation fault (core dumped)",
    ],
)
def test_the_first_unclean_line_is_kept(line):
    assert Log.of(f"fine\n{line}\n{GOOD}\nERROR: later").signs == {UNCLEAN: line}


@pytest.mark.parametrize("line", ["mean error 0.1", "no warnings", "error_rate 3", "Errors 0", "[W] shape (3, 3)"])
def test_clean_lines_are_no_sign(line):
    assert Log.of(line).signs == {}


def test_the_last_result_counts_and_others_are_ignored():
    older = json.dumps({"kind": "smoke_result", "assertions": {"a": False}})
    assert Log.of(f"{older}\n{GOOD}\n{{smoke_result broken\n").result == json.loads(GOOD)
    assert Log.of('{"kind": "other smoke_result"}').result is None
    assert Log.of(GOOD).signs == {}, "a result is no sign, whatever words it has"
    assert Log.of(f"{older}\n{GOOD}").results == 2


@pytest.mark.parametrize(
    "wrong", ["[" * 60_000, '{"kind": "smoke_result", "loss": NaN}', '{"kind": "smoke_result", "loss": Infinity}']
)
def test_what_is_no_sound_json_is_no_result(wrong):
    log = Log.of(f'{{"kind": "smoke_result", "a": {wrong}\nWARNING: behind it')
    assert log.result is None and UNCLEAN in log.signs


def test_colours_hide_nothing():
    assert Log.of("\x1b[33mWARNING\x1b[0m old").signs == {UNCLEAN: "WARNING old"}


def test_a_line_without_an_end_is_looked_at_in_pieces():
    log = Log()
    for _ in range(300):
        log.take(b"." * 1000, None)
    log.take(b"ValueErr", None)
    log.take(b"or: at the seam", None)
    for _ in range(300):
        log.take(b"." * 1000, None)
    log.end()
    assert "ValueError: at the seam" in log.signs[UNCLEAN]
    assert Log.of("10 %\r20 %\rWARNING: under a progress bar\r30 %").signs == {UNCLEAN: "WARNING: under a progress bar"}


def test_lines_that_come_in_pieces_and_out_of_two_streams():
    log = Log()
    whole = GOOD.encode()
    log.take(whole[:10], b"OSError: Read-only ")
    log.take(whole[10:], None)
    log.take(None, b"file system\nlast without an end")
    log.take(b"\n", None)
    log.end()
    assert log.result == json.loads(GOOD)
    assert READ_ONLY in log.signs and NETWORK not in log.signs
    assert log.tail[-1] == "last without an end"
    assert log.size == len(whole) + len("OSError: Read-only file system\nlast without an end\n")


def test_a_huge_log_is_looked_at_whole_and_kept_in_part():
    log = Log()
    for number in range(20_000):
        log.take(f"line {number} {'x' * 60}\n".encode() + (b"WARNING: in the middle\n" if number == 10_000 else b""), None)
    log.take(b"y" * 3_000_000, None)  # a line without an end
    log.end()
    assert log.signs[UNCLEAN] == "WARNING: in the middle"
    assert len(log.tail) == 15 and max(map(len, log.tail)) <= 400


def test_bytes_that_are_no_text():
    log = Log()
    log.take(b"\xff\xfe \x00\n", None)
    assert log.tail == ("\ufffd\ufffd",)  # a NUL is not shown


class Stream:
    """What `container.attach` gives."""

    def __init__(self, *pieces):
        self.pieces, self.closed = pieces, False

    def __iter__(self):
        return iter(self.pieces)

    def close(self):
        self.closed = True


def test_a_stream_that_breaks_is_not_the_end_of_the_log():
    def broken():
        yield b"a\n", None
        raise ValueError("cut")

    stream = Stream()
    stream.__class__ = type("Broken", (Stream,), {"__iter__": lambda _: broken()})
    reader = Reader(stream)
    assert reader.finish(10)
    assert reader.log.tail == ("a",) and "cut" in reader.log.broken


def test_the_reader_reads_to_the_end_and_closes():
    stream = Stream((b"a\n", None), (None, b"b"))
    reader = Reader(stream)
    assert reader.finish(10)
    assert reader.log.tail == ("a", "b") and stream.closed
