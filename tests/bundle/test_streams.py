"""A closed or full standard stream is never a reason to fail."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perforated_monai.bundle.streams import Forgiving, forgiving, reader_is_gone

# Prints more than a pipe holds, then leaves a file: the work that must not be lost.
WORK = """
import sys
from pathlib import Path
from perforated_monai.bundle.streams import forgive
forgive()
for stream in (sys.stdout, sys.stderr):
    for _ in range(20_000):
        print("a line that somebody may read", file=stream)
handle = open(sys.argv[1], "w")
print(handle.fileno(), file=handle)
"""


@pytest.mark.parametrize(
    "how",
    ["| head -1", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full 2>&1"],
)
def test_work_goes_on_without_a_reader(how: str, tmp_path: Path) -> None:
    """A closed descriptor is not given to the next file either."""
    if "/dev/full" in how and not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    made = tmp_path / "made.txt"
    (tmp_path / "work.py").write_text(WORK)
    line = f"set -o pipefail; {sys.executable} {tmp_path / 'work.py'} {made} {how}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(made.read_text()) > 2
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    raw = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(raw, encoding="ascii"))
    print("Größe × 2", os.fsdecode(b"caf\xe9"), file=stream)
    stream.flush()
    assert raw.getvalue() == b"Gr\\xf6\\xdfe \\xd7 2 caf\\udce9\n"
    assert stream.lost is None


def test_the_first_error_is_kept_and_the_streams_come_back() -> None:
    before = sys.stdout, sys.stderr
    with forgiving() as stdout:
        assert sys.stdout is stdout
        stdout._stream = io.TextIOWrapper(io.BytesIO())
        stdout._stream.close()
        print("x")
        assert isinstance(stdout.lost, ValueError) and not stdout.isatty()
    assert (sys.stdout, sys.stderr) == before


def test_a_reader_that_went_is_told_from_a_full_disk() -> None:
    assert reader_is_gone(None) and reader_is_gone(BrokenPipeError(32, "Broken pipe"))
    assert reader_is_gone(ValueError("closed"))
    assert not reader_is_gone(OSError(28, "No space left on device"))
