"""Checkpoints: kept two deep, hashed, and never lost to a kill, a full disk or a flipped bit."""

import os
import signal
from pathlib import Path

import pytest
import torch

from perforated_monai.errors import UserError
from perforated_monai.training import checkpoints as checkpoint
from perforated_monai.training.checkpoints import Checkpoints, load_hashed, save_hashed


def content(epoch: int, size: int = 10_000) -> dict:
    return {"epoch": epoch, "network": {"w": torch.full((size,), float(epoch))}, "none": None}


def saved(folder: Path, *epochs: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for epoch in epochs:
        checkpoints.save(epoch, content(epoch))
    return checkpoints


def flip(file: Path, at: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 3)
    loaded = checkpoints.load_last()
    assert loaded["epoch"] == 3 and loaded["none"] is None
    assert torch.equal(loaded["network"]["w"], content(3)["network"]["w"])


def test_nothing_yet(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "not made yet")
    assert checkpoints.load_last() is None
    assert checkpoints.load_best() is None


def test_the_last_two_are_kept_and_the_best(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    checkpoints.save_best(content(1))
    for epoch in (2, 3, 4):
        checkpoints.save(epoch, content(epoch))
    kept = ["best.pt", "epoch_0003.pt", "epoch_0004.pt"]
    assert names(tmp_path) == sorted([*kept, *[f"{n}.sha256" for n in kept]])
    assert checkpoints.load_last()["epoch"] == 4
    assert checkpoints.load_best()["epoch"] == 1


def test_the_newest_counts_beyond_four_digits(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 9998, 9999, 10000)
    assert checkpoints.load_last()["epoch"] == 10000
    assert not (tmp_path / "epoch_9998.pt").exists()


def test_an_epoch_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save(2, {**content(2), "finished": True})
    assert checkpoints.load_last()["finished"]
    assert load_hashed(tmp_path / "epoch_0001.pt")["epoch"] == 1


DAMAGE = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "hash lost": lambda file: file.with_name(file.name + ".sha256").unlink(),
    "hash empty": lambda file: file.with_name(file.name + ".sha256").write_text(""),
    "hash of another": lambda file: file.with_name(file.name + ".sha256").write_text("0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_is_used(damage: str, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    DAMAGE[damage](tmp_path / "epoch_0002.pt")
    with pytest.warns(UserWarning, match=r"epoch_0002\.pt is damaged.*before it is used"):
        assert checkpoints.load_last()["epoch"] == 1


@pytest.mark.parametrize("at", [0.0, 0.1, 0.9, 1.0])
def test_every_flipped_bit_is_seen(at: float, tmp_path: Path) -> None:
    save_hashed(tmp_path / "a.pt", content(1))
    flip(tmp_path / "a.pt", at)
    with pytest.raises(UserError, match=r"a\.pt is damaged"):
        load_hashed(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Checkpoint")
def test_all_damaged_is_refused(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    flip(tmp_path / "epoch_0001.pt")
    flip(tmp_path / "epoch_0002.pt")
    with pytest.raises(UserError, match=r"Every checkpoint.*epoch_0002\.pt, epoch_0001\.pt"):
        checkpoints.load_last()


def test_a_damaged_best_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(content(1))
    flip(tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt is damaged"):
        checkpoints.load_best()


def test_an_unknown_format_is_refused_by_name(tmp_path: Path) -> None:
    save_hashed(tmp_path / "a.pt", {**content(1), "format": 99})
    with pytest.raises(UserError, match=r"a\.pt has format 99; this version reads 1"):
        load_hashed(tmp_path / "a.pt")


def test_a_full_disk_leaves_the_earlier_one_whole(tmp_path: Path, full_disk) -> None:
    checkpoints = saved(tmp_path, 1)
    before = (tmp_path / "epoch_0001.pt").read_bytes()
    said = full_disk(lambda: checkpoints.save(2, content(2)), room=20_000)
    assert said.startswith("UserError: Cannot write") and "epoch_0002.pt" in said
    assert (tmp_path / "epoch_0001.pt").read_bytes() == before
    assert not (tmp_path / "epoch_0002.pt").exists()
    assert not [n for n in names(tmp_path) if n.endswith(".tmp")]
    assert checkpoints.load_last()["epoch"] == 1
    checkpoints.save(2, content(2))  # space was freed
    assert checkpoints.load_last()["epoch"] == 2


def test_a_full_disk_leaves_the_best_whole(tmp_path: Path, full_disk) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(content(1))
    full_disk(lambda: checkpoints.save_best(content(2)), room=20_000)
    assert checkpoints.load_best()["epoch"] == 1


@pytest.mark.parametrize("step", ["write_text", "write_bytes"])
def test_a_kill_at_each_write_leaves_the_earlier_ones_whole(
    step: str, tmp_path: Path, forked
) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    checkpoints.save_best(content(1))

    def killed_while(action) -> None:
        def run() -> None:
            setattr(checkpoint, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            action()

        assert forked(run)[0] == -signal.SIGKILL

    killed_while(lambda: checkpoints.save_best(content(3)))
    assert checkpoints.load_best()["epoch"] == 1
    killed_while(lambda: checkpoints.save(3, content(3)))
    assert checkpoints.load_last()["epoch"] == 2
    killed_while(lambda: checkpoints.save(2, {**content(2), "finished": True}))
    assert "finished" not in checkpoints.load_last()
    checkpoints.save(3, content(3))
    assert checkpoints.load_last()["epoch"] == 3
    assert [n for n in names(tmp_path) if n.startswith("epoch") and n.endswith("pt")] == [
        "epoch_0002.pt",
        "epoch_0003.pt",
    ]


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "was run"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (marker,))

    save_hashed(tmp_path / "a.pt", {"network": Trap()})
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_hashed(tmp_path / "a.pt")
    assert not marker.exists()


def test_the_state_of_a_grown_run_fits_in(tiny_unet, volume, grow, tmp_path: Path) -> None:
    """Network, optimizer and the tracker's own state load back with ``weights_only``."""
    network, x = tiny_unet(dims=2), volume(dims=2)
    tracker = grow(network, x, 2)
    optimizer = torch.optim.AdamW([p for _, p in tracker.trainable()])
    network(x).sum().backward()
    optimizer.step()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "growth": tracker.state_dict(),
    }
    checkpoints.save(1, state)
    loaded = checkpoints.load_last()
    assert loaded["network"].keys() == network.state_dict().keys()
    assert all(torch.equal(v, loaded["network"][k]) for k, v in network.state_dict().items())
    assert loaded["growth"]["members"] == state["growth"]["members"]
    assert torch.equal(loaded["growth"]["best_model"], state["growth"]["best_model"])
    optimizer.load_state_dict(loaded["optimizer"])


def test_a_newer_format_is_refused_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = checkpoint.Checkpoints(tmp_path)
    store.save(1, {"epoch": 1})
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    store.save(2, {"epoch": 2})
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 99; this version reads 1"):
        store.load_last()
