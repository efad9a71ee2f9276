"""Several processes: one decision, one history, equal weights; here two gloo ranks on the CPU."""

import datetime
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import BUNDLE, GROW, SMALL, history, kill_self, refused, same_run, train, weights
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import Tensor

from perforated_monai import UserError, distributed

RANKS = 2
# One case a step and rank, so that the global batch is the shipped one.
TWO = {"batch_size": 1, "backend": "gloo", "process_group_timeout": 120}


def two_rank_workflow(data: Path, out: Path, dendrites: bool, **changes: object) -> ConfigWorkflow:
    names = ["train.json", *(["dendrites.yaml"] if dendrites else []), "multi_gpu_train.yaml"]
    made = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / name) for name in names],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(data),
        manifest=str(data / "manifest.json"),
        output_dir=str(out),
        **(without_device(SMALL) | (GROW if dendrites else {}) | TWO | changes),
    )
    made.initialize()
    return made


def without_device(settings: dict) -> dict:
    return {k: v for k, v in settings.items() if k != "device"}


def on_two_ranks(work: Callable[[int], None]) -> list[int]:
    """Fork two ranks that torchrun would start; their exit codes, or minus the signal.

    A fresh process each would spend most of its time on imports.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork_rank(rank, port, work) for rank in range(RANKS)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def _fork_rank(rank: int, port: int, work: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(rank)
        distributed.stop()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def train_two(data: Path, out: Path, dendrites: bool, watch: Callable | None = None) -> list[int]:
    """Train on two ranks; rank 1 is given another folder, which must never be made."""

    def work(rank: int) -> None:
        made = two_rank_workflow(data, out if rank == 0 else out / "rank1", dendrites)
        if watch is not None:
            watch(rank, made.parser.get_parsed_content("train::trainer"))
        made.run()

    return on_two_ranks(work)


def values(network: torch.nn.Module) -> dict[str, Tensor]:
    """Tensors of a network without the library's own text buffer, which only rank 0's tracker has."""
    return {k: v.clone() for k, v in network.state_dict().items() if "tracker_string" not in k}


# -- equal ranks -----------------------------------------------------------------------------


def test_ranks_stay_bit_identical_over_two_growths(phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def watch(rank: int, trainer) -> None:
        seen: dict[int, dict[str, Tensor]] = {}
        empty = tmp_path / f"cwd{rank}"
        empty.mkdir()
        os.chdir(empty)

        def keep() -> None:
            seen[trainer.state.epoch] = values(distributed_free(trainer.network))

        trainer.add_event_handler(Events.EPOCH_STARTED, keep)
        trainer.add_event_handler(Events.COMPLETED, keep)
        trainer.add_event_handler(
            Events.COMPLETED, lambda: torch.save(seen, tmp_path / f"rank{rank}.pt")
        )

    assert train_two(phantoms, out, True, watch) == [0, 0]
    one, other = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(RANKS))
    events = history(out)
    assert [e["event"] for e in events].count("grow") == 2
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == list(range(1, 10))
    assert one.keys() == other.keys() == set(range(1, 10))
    for epoch in one:
        assert one[epoch].keys() == other[epoch].keys()
        for name, tensor in one[epoch].items():
            assert torch.equal(tensor, other[epoch][name]), (epoch, name)
    assert not (out / "rank1").exists()
    assert not list((tmp_path / "cwd0").iterdir()) and not list((tmp_path / "cwd1").iterdir())


def distributed_free(network: torch.nn.Module) -> torch.nn.Module:
    return getattr(network, "module", network)


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

    def work(rank: int) -> None:
        made = two_rank_workflow(data, folder / "two", True, **changes)
        scripted(made)
        made.run()

    assert on_two_ranks(work) == [0, 0]
    made = two_rank_free(data, folder / "one", **changes)
    scripted(made)
    made.run()
    grown = [e["epoch"] for e in history(folder / "one") if e["event"] == "grow"]
    assert len(grown) == 2
    assert grown == [e["epoch"] for e in history(folder / "two") if e["event"] == "grow"]
    assert_close(folder / "one", folder / "two", tolerance)


def two_rank_free(data: Path, out: Path, **changes: object) -> ConfigWorkflow:
    from harness import workflow

    return workflow(data, out, dendrites=True, **changes)


def test_two_ranks_equal_one_process_in_float64(phantoms: Path, tmp_path: Path) -> None:
    """Transforms are seeded by epoch and case, so they are the same on any rank."""
    compare_with_one_process(phantoms, tmp_path, 1e-6, **DOUBLE)
    dtypes = {v.dtype for v in weights(tmp_path / "two").values() if v.is_floating_point()}
    assert torch.float64 in dtypes


# -- refusals --------------------------------------------------------------------------------


def test_overlay_without_torchrun_is_refused(phantoms: Path, tmp_path: Path) -> None:
    with refused("needs torchrun"):
        two_rank_workflow(phantoms, tmp_path / "run", False)
    assert not (tmp_path / "run").exists()


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(UserError, match="nccl .*or gloo .*'mpi'"):
        distributed.device("mpi")
