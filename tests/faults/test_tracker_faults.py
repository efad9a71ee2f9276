"""Faults 1 to 15: what can go wrong while training; one test a number, where its proof lives.

Faults 1, 2, 3, 6, 8 are proven by the exact-resume tests of ``test_run.py`` too; here each number
has its own injection.
"""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from helpers.harness import (
    history,
    in_child,
    kill_self,
    refused,
    same_run,
    train,
    user_error,
    weights,
    workflow,
)
from helpers.ranks import at, fail, train_two
from perforated_monai import DendriteHandler
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.errors import UserError
from perforated_monai.growth.sandbox import TrackerError
from perforated_monai.growth.tracker import Tracker
from perforated_monai.training import checkpoints as checkpoint
from perforated_monai.training.checkpoints import Checkpoints, load_hashed
from perforated_monai.training.optimizer import assert_complete


def trainer_of(made) -> Engine:
    return made.parser.get_parsed_content("train::trainer")


def ends(data: Path, out: Path, prepare: Callable[[Engine], None], **changes: object) -> int:
    """Exit code of a forked run that ``prepare`` has sabotaged."""

    def work() -> None:
        made = workflow(data, out, **changes)
        prepare(trainer_of(made))
        made.run()

    return in_child(work)


def on_epoch(epoch: int, event: Events, act: Callable[[], None]) -> Callable[[Engine], None]:
    def prepare(trainer: Engine) -> None:
        trainer.add_event_handler(event, lambda: act() if trainer.state.epoch == epoch else None)

    return prepare


@pytest.mark.fault(1)
def test_sigkill_then_the_same_command(phantoms: Path, tmp_path: Path, plain_run: Path) -> None:
    prepare = on_epoch(3, Events.ITERATION_COMPLETED, kill_self)
    assert ends(phantoms, tmp_path, prepare) == -signal.SIGKILL
    assert in_child(lambda: train(phantoms, tmp_path) and None) == 0
    same_run(tmp_path, plain_run)


@pytest.mark.fault(2)
def test_sigkill_inside_a_checkpoint_write(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(1, {"epoch": 1})

    def dies(path: Path, data: bytes) -> None:
        path.with_name(".half.tmp").write_bytes(data[: len(data) // 2])
        kill_self()

    def work() -> None:
        checkpoint.write_bytes = dies
        store.save(2, {"epoch": 2})

    assert in_child(work) == -signal.SIGKILL
    assert not (tmp_path / "epoch_0002.pt").exists()
    assert store.load_last()["epoch"] == 1


@pytest.mark.fault(3)
def test_sigterm_exits_143(phantoms: Path, tmp_path: Path) -> None:
    act = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    assert ends(phantoms, tmp_path, on_epoch(2, Events.ITERATION_STARTED, act)) == 143
    assert load_hashed(tmp_path / "checkpoints" / "epoch_0001.pt")["epoch"] == 1


@pytest.mark.fault(4)
def test_disk_full_on_checkpoint(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(1, {"epoch": 1, "x": torch.zeros(10)})

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            store.save(2, {"epoch": 2, "x": torch.zeros(100_000)})
        except UserError as error:
            raise SystemExit(9 if "Cannot write" in str(error) else 1) from None

    assert in_child(work) == 9
    assert store.load_last()["epoch"] == 1
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.fault(5)
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    store = Checkpoints(tmp_path)
    store.save(1, {"epoch": 1})
    path = store.save(2, {"epoch": 2, "x": torch.arange(100.0)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    changed = {"truncated": data[: len(data) // 2], "empty": b"", "flipped": data}[damage]
    path.write_bytes(bytes(changed))
    with pytest.warns(UserWarning, match="epoch_0002.pt is damaged"):
        assert store.load_last()["epoch"] == 1


@pytest.mark.fault(6)
def test_learning_rate_epoch_and_best_after_resume(
    phantoms: Path, tmp_path: Path, plain_run: Path
) -> None:
    prepare = on_epoch(3, Events.EPOCH_STARTED, kill_self)
    assert ends(phantoms, tmp_path, prepare) == -signal.SIGKILL
    made = workflow(phantoms, tmp_path)
    seen: list[tuple] = []
    trainer = trainer_of(made)
    optimizer = trainer.optimizer
    trainer.add_event_handler(
        Events.ITERATION_STARTED(once=1 + 2 * trainer.state.epoch_length),
        lambda: seen.append((trainer.state.epoch, optimizer.param_groups[0]["lr"])),
    )
    made.run()
    third = [e for e in history(plain_run) if e["event"] == "epoch"][2]
    assert seen == [(3, third["lr"][0])]
    assert history(tmp_path)[-1] == history(plain_run)[-1]


@pytest.mark.fault(7)
def test_checkpoint_with_dendrites_under_a_plain_configuration(
    phantoms: Path, tmp_path: Path
) -> None:
    prepare = on_epoch(5, Events.EPOCH_STARTED, kill_self)
    assert ends(phantoms, tmp_path, prepare, dendrites=True) == -signal.SIGKILL
    with refused("another configuration"):
        train(phantoms, tmp_path)
    (tmp_path / "config.json").unlink()  # even then the structure decides
    with refused("holds a run with dendrites"):
        train(phantoms, tmp_path)


@pytest.mark.fault(8)
def test_kill_between_restructure_and_checkpoint(phantoms: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert in_child(lambda: train(phantoms, whole, dendrites=True, epochs=5) and None) == 0
    growth = next(e for e in history(whole) if e["event"] == "grow")

    def work() -> None:
        made = workflow(phantoms, broken, dendrites=True, epochs=5)
        trainer = trainer_of(made)

        def register() -> None:  # in front of the checkpoint, behind the growth
            trainer.add_event_handler(Events.EPOCH_COMPLETED, die)
            handlers = trainer._event_handlers[Events.EPOCH_COMPLETED]
            handlers.insert(len(handlers) - 2, handlers.pop())

        def die() -> None:
            if trainer.state.epoch == growth["epoch"]:
                assert growth_of(made).tracker.sets == 1
                kill_self()

        trainer.add_event_handler(Events.STARTED, register)
        made.run()

    def growth_of(made) -> DendriteHandler:
        return made.parser.get_parsed_content("train::handlers")[-1]

    assert in_child(work) == -signal.SIGKILL
    assert not any(e["event"] == "grow" for e in history(broken))
    assert in_child(lambda: train(phantoms, broken, dendrites=True, epochs=5) and None) == 0
    same_run(broken, whole)


@pytest.mark.fault(9)
def test_nan_loss_names_the_case(phantoms: Path, tmp_path: Path) -> None:
    made = workflow(phantoms, tmp_path)
    trainer = trainer_of(made)

    def spoil() -> None:
        if trainer.state.epoch == 2:
            trainer.state.batch["image"][0, 0, 0, 0, 0] = float("nan")

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, spoil)
    with refused(r"loss is nan in epoch 2, case\(s\) phantom_"):
        made.run()
    assert all(torch.isfinite(v).all() for v in weights(tmp_path).values())


@pytest.mark.fault(10)
def test_stale_optimizer(tiny_unet: Callable, volume: Callable, grow: Callable) -> None:
    network = tiny_unet()
    old = torch.optim.SGD(network.parameters(), 0.1)
    tracker = grow(network, volume(), 1)
    with pytest.raises(UserError, match="optimizer misses"):
        assert_complete(old, tracker.trainable())


@pytest.mark.fault(11)
def test_out_of_memory_says_what_to_lower(phantoms: Path, tmp_path: Path) -> None:
    made = workflow(phantoms, tmp_path)
    trainer = trainer_of(made)

    def exhaust() -> None:
        if trainer.state.epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer.add_event_handler(Events.ITERATION_STARTED, exhaust)
    with refused("lower batch_size, then roi_size"):
        made.run()
    assert load_hashed(tmp_path / "checkpoints" / "epoch_0001.pt")["epoch"] == 1


class KilledWhileReading:
    """A transform whose process is ended by the system at one case."""

    def __call__(self, item: dict) -> dict:
        if item["case"] == "phantom_003":
            kill_self()
        return item


@pytest.mark.fault(12)
def test_dead_worker_names_the_case(phantoms: Path, tmp_path: Path) -> None:
    steps = "$[@killer] + @train::deterministic_transforms + @train::random_transforms"
    changes = {"killer": KilledWhileReading(), "train::preprocessing::transforms": steps}
    made = workflow(phantoms, tmp_path, num_workers=1, **changes)
    dataset = made.parser.get_parsed_content("train::dataset")
    assert any(d["case"] == "phantom_003" for d in dataset.data)
    with refused("data worker died while reading phantom_003"):
        made.run()


@pytest.mark.fault(13)
def test_one_rank_raises(phantoms: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Two gloo processes; the other one ends with the message, long before its timeout."""
    start = time.monotonic()
    assert train_two(phantoms, tmp_path / "run", False, at(2, (1,), fail)) == [1, 1]
    assert time.monotonic() - start < 60  # the promise of the library, not a speed
    assert "Rank 1 stopped this run: a volume of zero size" in capfd.readouterr().err


@pytest.mark.fault(14)
def test_debugger_key_press_and_exit_become_errors(
    tmp_path: Path, tiny_unet: Callable, volume: Callable
) -> None:
    """A switch before any backward pass ends in pdb in the library; here it is an exception."""
    tracker = Tracker(tiny_unet(), DendriteConfig(patience=1, tries=1), tmp_path / "tracker")
    tracker.open()
    try:
        optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.1)
        with pytest.raises(TrackerError, match="stopped for its user"):
            for score in (0.5, 0.5, 0.5):
                tracker.add_score(score, optimizer)
    finally:
        tracker.close()


@pytest.mark.fault(14)
def test_exit_code_is_not_zero(tmp_path: Path, tiny_unet: Callable, forked: Callable) -> None:
    """The same in a process of its own, with standard input closed: exit code 1, not 0."""

    def stopped_by_the_library() -> None:
        tracker = Tracker(tiny_unet(), DendriteConfig(patience=1, tries=1), tmp_path / "tracker")
        tracker.open()
        optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.1)
        for score in (0.5, 0.5, 0.5):
            tracker.add_score(score, optimizer)

    code, said = forked(stopped_by_the_library)
    assert code == 1
    assert said.startswith("TrackerError: ")


@pytest.mark.fault(15)
def test_two_runs_on_one_folder(phantoms: Path, tmp_path: Path) -> None:
    made = workflow(phantoms, tmp_path)
    trainer = trainer_of(made)
    codes: list[int] = []

    def second() -> None:
        try:
            train(phantoms, tmp_path)
        except Exception as error:
            said = str(user_error(error))
            raise SystemExit(7 if "Another run is writing" in said else 1) from None

    trainer.add_event_handler(Events.EPOCH_STARTED(once=1), lambda: codes.append(in_child(second)))
    made.run()
    assert codes == [7]
