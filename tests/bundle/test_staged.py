"""``staged``: several files replaced together, whatever kills the process."""

import os
import signal
from pathlib import Path

import pytest

from helpers.harness import in_child, kill_self
from perforated_monai import UserError
from perforated_monai.bundle import staged as staging
from perforated_monai.bundle.staged import finish, remove_at_end, staged

OLD = {"models/model.pt": "old", "models/model.ts": "old", "configs/train.json": "old"}
NEW = {"models/model.pt": "new", "models/parity.json": "new", "configs/train.json": "new"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "b", OLD)
    return tmp_path / "b"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    """Every file but those of an unfinished export."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    names = {p.relative_to(folder).as_posix(): p.read_text() for p in files}
    return {n: t for n, t in names.items() if not n.startswith((".export", ".perforated-monai-"))}


def replace_all(bundle: Path) -> None:
    with staged(bundle) as stage:
        write(stage, NEW)
        remove_at_end(stage, ["models/model.ts", "models/never_there"])


def test_files_are_replaced_together_and_nothing_is_left(bundle: Path) -> None:
    with staged(bundle) as stage:
        write(stage, NEW)
        remove_at_end(stage, ["models/model.ts"])
        assert read(bundle) == OLD
    assert read(bundle) == NEW
    assert not list(bundle.glob(".*export*"))


def test_an_error_leaves_everything_as_it_was(bundle: Path) -> None:
    with pytest.raises(KeyError), staged(bundle) as stage:
        write(stage, NEW)
        raise KeyError
    assert read(bundle) == OLD
    assert not list(bundle.glob(".*export*"))


def test_killed_while_staging(bundle: Path) -> None:
    def work() -> None:
        with staged(bundle) as stage:
            write(stage, NEW)
            kill_self()

    assert in_child(work) == -signal.SIGKILL
    assert read(bundle) == OLD
    finish(bundle)
    assert read(bundle) == OLD
    replace_all(bundle)
    assert read(bundle) == NEW and not list(bundle.glob(".*export*"))


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_killed_among_the_moves(moved: int, bundle: Path) -> None:
    """After ``moved`` of four moves; the next call makes them good."""

    def work() -> None:
        calls = []
        replace = Path.replace

        def dies(self: Path, target: Path) -> Path:
            calls.append(target)
            if len(calls) > moved:
                kill_self()
            return replace(self, target)

        Path.replace = dies
        if moved == 3:  # before the folder of moved files goes
            staging.shutil.rmtree = lambda *_, **__: kill_self()
        replace_all(bundle)

    assert in_child(work) == -signal.SIGKILL
    finish(bundle)
    assert read(bundle) == NEW and not list(bundle.glob(".*export*"))
    finish(bundle)
    assert read(bundle) == NEW


def test_a_second_export_waits_for_the_first(bundle: Path) -> None:
    (bundle / f".perforated-monai-export-{os.getppid()}").mkdir()
    with pytest.raises(UserError, match=f"process {os.getppid()}"), staged(bundle):
        pass
    assert read(bundle) == OLD


def test_a_full_disk_leaves_everything_as_it_was(bundle: Path, full_disk) -> None:
    def work() -> None:
        with staged(bundle) as stage:
            write(stage, {"models/model.pt": "x" * 5000})

    assert "Cannot write" in full_disk(work, 1000)
    assert read(bundle) == OLD
