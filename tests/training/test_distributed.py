"""Several processes: one decision, one history, equal weights; here two gloo ranks on the CPU."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import Tensor

from helpers.harness import (
    BUNDLE,
    history,
    kill_self,
    refused,
    same_run,
    weights,
    workflow,
)
from helpers.ranks import (
    RANKS,
    SHORT,
    at,
    fail,
    on_ranks,
    settings,
    train_two,
    two_rank_workflow,
    values,
)
from perforated_monai import UserError
from perforated_monai.training import distributed
from perforated_monai.training.checkpoints import load_hashed

# -- equal to one process --------------------------------------------------------------------

DOUBLE = {
    "network": "$(@seeded, @base_network_def.to(@device).double())[1]",
    "train::trainer::to_kwargs": {"dtype": "$torch.float64"},
    "validate::evaluator::to_kwargs": {"dtype": "$torch.float64"},
    "loss::batch": False,  # a Dice over the whole batch is no mean over its cases
}


def scripted(made: ConfigWorkflow) -> None:
    """Replace each epoch's Dice by one that rises after each growth and then stays."""
    trainer = made.parser.get_parsed_content("train::trainer")
    evaluator = made.parser.get_parsed_content("validate::evaluator")

    def score() -> None:
        evaluator.state.metrics["val_mean_dice"] = 0.1 + 0.2 * ((trainer.state.epoch + 1) // 3)

    evaluator.add_event_handler(Events.COMPLETED, score)


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], rtol=0, atol=tolerance), name
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert mine["event"] == theirs["event"] and mine["epoch"] == theirs["epoch"]
        if mine["event"] == "epoch":
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=tolerance)
            assert mine["dendrite_sets"] == theirs["dendrite_sets"]


def compare_with_one_process(data: Path, folder: Path, tolerance: float, **changes: object) -> None:
    """Two ranks with one case a step against one process with two."""
    made = workflow(data, folder / "one", dendrites=True, **(SHORT | changes))
    scripted(made)
    made.run()

    def work(rank: int) -> None:
        made = two_rank_workflow(data, folder / "two", True, **changes)
        scripted(made)
        made.run()

    assert on_ranks(work) == [0, 0]
    grown = [e["epoch"] for e in history(folder / "one") if e["event"] == "grow"]
    assert len(grown) == 2
    assert grown == [e["epoch"] for e in history(folder / "two") if e["event"] == "grow"]
    assert_close(folder / "one", folder / "two", tolerance)


def test_two_ranks_equal_one_process_in_float64(phantoms: Path, tmp_path: Path) -> None:
    """Transforms are seeded by epoch and case, so they are the same on any rank."""
    compare_with_one_process(phantoms, tmp_path, 1e-6, **DOUBLE)
    dtypes = {v.dtype for v in weights(tmp_path / "two").values() if v.is_floating_point()}
    assert torch.float64 in dtypes


@pytest.mark.slow
def test_two_ranks_grow_when_one_process_does_in_float32(phantoms: Path, tmp_path: Path) -> None:
    compare_with_one_process(phantoms, tmp_path, 1.0, **{"loss::batch": False})


# -- equal ranks -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["copy", None], ids=["copies", "sets of the overlay"])
def test_ranks_stay_bit_identical_over_two_growths(
    kind: str | None, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def watch(rank: int, trainer) -> None:
        seen: dict[int, dict[str, Tensor]] = {}
        empty = tmp_path / f"cwd{rank}"
        empty.mkdir()
        os.chdir(empty)

        def keep() -> None:
            seen[trainer.state.epoch] = values(unwrapped(trainer.network))

        trainer.add_event_handler(Events.EPOCH_STARTED, keep)
        trainer.add_event_handler(Events.COMPLETED, keep)
        trainer.add_event_handler(
            Events.COMPLETED, lambda: torch.save(seen, tmp_path / f"rank{rank}.pt")
        )

    assert train_two(phantoms, out, True, watch, **{"dendrites::kind": kind}) == [0, 0]
    one, other = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(RANKS))
    events = history(out)
    assert [e["event"] for e in events].count("grow") == 2
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == list(range(1, 7))
    assert one.keys() == other.keys() == set(range(1, 7))
    for epoch in one:
        assert one[epoch].keys() == other[epoch].keys()
        for name, tensor in one[epoch].items():
            assert torch.equal(tensor, other[epoch][name]), (epoch, name)
    assert not (out / "rank1").exists()
    assert not list((tmp_path / "cwd0").iterdir()) and not list((tmp_path / "cwd1").iterdir())


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    return getattr(network, "module", network)


# -- interruptions ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Folder of an uninterrupted run of two ranks, made when first asked for."""
    done: dict[bool, Path] = {}

    def run(dendrites: bool) -> Path:
        if dendrites not in done:
            out = tmp_path_factory.mktemp("whole")
            assert train_two(phantoms, out, dendrites) == [0, 0]
            done[dendrites] = out
        return done[dendrites]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("dendrites", [False, True], ids=["plain", "grown"])
@pytest.mark.parametrize("ranks", [(0, 1), (0,), (1,)], ids=["both", "rank 0", "rank 1"])
def test_killed_run_goes_on_exactly(
    phantoms: Path, tmp_path: Path, whole: Callable, dendrites: bool, ranks: tuple[int, ...]
) -> None:
    """Killed in epoch 4, between the growths; a rank whose peer is gone ends by itself."""
    codes = train_two(phantoms, tmp_path, dendrites, at(4, ranks, kill_self))
    assert codes == [-signal.SIGKILL if r in ranks else 1 for r in range(RANKS)]
    assert train_two(phantoms, tmp_path, dendrites) == [0, 0]
    same_run(tmp_path, whole(dendrites))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_raises_ends_the_other_with_its_message(
    phantoms: Path, tmp_path: Path, capfd: pytest.CaptureFixture, rank: int
) -> None:
    start = time.monotonic()
    assert train_two(phantoms, tmp_path / "run", True, at(2, (rank,), fail)) == [1, 1]
    assert time.monotonic() - start < 60
    said = capfd.readouterr().err
    assert "ValueError: a volume of zero size" in said
    # Rank 0 holds the store of messages here, where no torchrun does.
    end = "Another process of this run ended" if rank == 0 else "Rank 1 stopped this run: a volume"
    assert end in said
    assert (tmp_path / "run" / "checkpoints" / "epoch_0001.pt").exists()


@pytest.mark.slow
def test_sigterm_ends_each_rank_with_143(phantoms: Path, tmp_path: Path, whole: Callable) -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert train_two(phantoms, tmp_path, True, at(4, (0, 1), terminate)) == [143, 143]
    assert train_two(phantoms, tmp_path, True) == [0, 0]
    same_run(tmp_path, whole(True))


@pytest.mark.slow
def test_another_number_of_processes_is_refused(
    phantoms: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert train_two(phantoms, tmp_path, False, at(2, (0, 1), kill_self)) == [-9, -9]
    assert on_ranks(lambda _: two_rank_workflow(phantoms, tmp_path, False).run(), count=1) == [1]
    assert "holds a run of 2 process(es), not of 1" in capfd.readouterr().err


@pytest.mark.slow
def test_error_on_rank_0_reaches_the_other(
    phantoms: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """What only rank 0 can see, here a folder that cannot be made, ends both with one message."""
    (tmp_path / "file").write_text("")
    assert train_two(phantoms, tmp_path / "file" / "run", False) == [1, 1]
    said = capfd.readouterr().err
    assert "Rank 0 stopped this run: output_dir" in said and "cannot be written" in said


# -- the documented command line -------------------------------------------------------------


def torchrun(data: Path, out: Path, *extra: str, **changes: object) -> subprocess.Popen:
    """Start the command of multi_gpu_train.yaml, with both streams in one pipe."""
    names = ["train.json", "dendrites.yaml", "multi_gpu_train.yaml", *extra]
    files = [name if "/" in name else str(BUNDLE / "configs" / name) for name in names]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files)]
    command += ["--bundle_root", str(BUNDLE), "--dataset_dir", str(data)]
    command += ["--manifest", str(data / "manifest.json"), "--output_dir", str(out)]
    for key, value in settings(True, **changes).items():
        command += [f"--{key}", str(value)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=out.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_command_line_gives_the_same_run(phantoms: Path, tmp_path: Path, whole: Callable) -> None:
    process = torchrun(phantoms, tmp_path / "run")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert said.count("dendrite set 1 added") == 1
    same_run(tmp_path / "run", whole(True))


@pytest.mark.slow
def test_torchrun_ends_with_a_rank_that_raises(phantoms: Path, tmp_path: Path) -> None:
    overlay, mark = tmp_path / "fail.yaml", tmp_path / "raised"
    overlay.write_text(
        "+imports: ['$import monai', '$import pathlib']\n"
        f"mark: {mark}\n"
        'loss: "$(lambda p, y: 1 / pathlib.Path(@mark).write_text(str())) '
        'if distributed.rank() == 1 else monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)"\n'
    )
    process = torchrun(phantoms, tmp_path / "run", str(overlay))
    said, _ = process.communicate(timeout=600)
    assert time.time() - mark.stat().st_mtime < 60
    assert process.returncode == 1, said
    assert "ZeroDivisionError" in said


@pytest.mark.slow
def test_torchrun_passes_sigterm_on(phantoms: Path, tmp_path: Path) -> None:
    process = torchrun(phantoms, tmp_path / "run", epochs=1000)
    first = tmp_path / "run" / "checkpoints" / "epoch_0002.pt"
    deadline = time.monotonic() + 300
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    kept = sorted((tmp_path / "run" / "checkpoints").glob("epoch_*.pt"))
    assert kept and all(load_hashed(p)["processes"] == RANKS for p in kept)


# -- refusals --------------------------------------------------------------------------------


def test_overlay_without_torchrun_is_refused(phantoms: Path, tmp_path: Path) -> None:
    with refused("needs torchrun"):
        two_rank_workflow(phantoms, tmp_path / "run", False)
    assert not (tmp_path / "run").exists()


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(UserError, match=r"nccl .*or gloo .*'mpi'"):
        distributed.device("mpi")


# -- private parts of torch ------------------------------------------------------------------


def test_a_tensor_that_is_left_unreduced_keeps_its_own_gradient() -> None:
    """Pins torch's private call behind ``leave_unreduced``."""

    def work(rank: int) -> None:
        distributed.start("gloo")
        layer = torch.nn.Linear(1, 1)
        network = torch.nn.Sequential(layer)
        distributed.leave_unreduced(network, ["0.bias"])
        wrapped = torch.nn.parallel.DistributedDataParallel(network)
        ((rank + 1) * wrapped(torch.ones(1, 1))).sum().backward()
        assert layer.weight.grad.item() == 1.5  # the mean of 1 and 2
        assert layer.bias.grad.item() == rank + 1

    assert on_ranks(work) == [0, 0]


def test_the_shared_store_keeps_the_first_value() -> None:
    """Pins torch's private call behind ``shared_store``."""

    def work(rank: int) -> None:
        distributed.start("gloo")
        store = distributed.shared_store()
        if rank == 0:
            assert not store.check(["key"])
            store.compare_set("key", "", "first")
            store.compare_set("key", "", "second")
        torch.distributed.barrier()
        assert store.check(["key"]) and store.get("key") == b"first"
        torch.distributed.barrier()

    assert on_ranks(work) == [0, 0]
