import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import SaveError
from engine.storage import sweep_temporaries, write_atomically


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"old" * 1000)
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


WRITE_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from engine.errors import SaveError
from engine.storage import write_atomically
try:
    write_atomically(Path(sys.argv[1]), bytes(100_000))
except SaveError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_no_room_leaves_the_old_file_and_says_how_much_was_needed(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"good")
    done = subprocess.run([sys.executable, "-c", WRITE_TOO_MUCH, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    assert "100000 bytes" in done.stdout
    assert str(file) in done.stdout
    assert file.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [file]


def test_missing_folder_is_a_save_error(tmp_path: Path) -> None:
    with pytest.raises(SaveError):
        write_atomically(tmp_path / "nowhere" / "state", b"x")


def test_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".state.abc.tmp").write_bytes(b"half")
    (tmp_path / "state").write_bytes(b"whole")
    sweep_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
