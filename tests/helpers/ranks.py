"""Two gloo ranks on the CPU, forked as torchrun would start them."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import Tensor

from helpers.harness import (
    BUNDLE,
    GROW,
    SMALL,
    initialised,
)
from perforated_monai.training import distributed

RANKS = 2


# One case a step and rank, so that the global batch is the shipped one; GROW grows after epochs 2
# and 5, so that both sets train.
SHORT = {"epochs": 6}


TWO = SHORT | {"batch_size": 1, "backend": "gloo", "process_group_timeout": 120}


def two_rank_workflow(data: Path, out: Path, dendrites: bool, **changes: object) -> ConfigWorkflow:
    names = ["train.json", *(["dendrites.yaml"] if dendrites else []), "multi_gpu_train.yaml"]
    return initialised(BUNDLE, names, data, out, **settings(dendrites, **changes))


def settings(dendrites: bool, **changes: object) -> dict:
    both = SMALL | (GROW if dendrites else {}) | TWO | changes
    return {k: v for k, v in both.items() if k != "device"}  # the overlay chooses it


def on_ranks(work: Callable[[int], None], count: int = RANKS) -> list[int]:
    """Fork ranks as torchrun would start them; their exit codes, or minus the signal.

    A fresh process each would spend most of its time on imports.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork_rank(rank, count, port, work) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def _fork_rank(rank: int, count: int, port: int, work: Callable[[int], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(rank)
        distributed.stop()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def train_two(
    data: Path,
    out: Path,
    dendrites: bool,
    watch: Callable | None = None,
    **changes: object,
) -> list[int]:
    """Train on two ranks; rank 1 is given another folder, which must never be made."""

    def work(rank: int) -> None:
        made = two_rank_workflow(data, out if rank == 0 else out / "rank1", dendrites, **changes)
        if watch is not None:
            watch(rank, made.parser.get_parsed_content("train::trainer"))
        made.run()

    return on_ranks(work)


def values(network: torch.nn.Module) -> dict[str, Tensor]:
    """Tensors of a network without the library's own text buffer, which differs on rank 0."""
    return {k: v.clone() for k, v in network.state_dict().items() if "tracker_string" not in k}


def at(epoch: int, ranks: tuple[int, ...], act: Callable[[], None]) -> Callable:
    """Act in a step of an epoch, on some ranks."""

    def watch(rank: int, trainer) -> None:
        def check() -> None:
            if trainer.state.epoch == epoch and rank in ranks:
                act()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, check)

    return watch


def fail() -> None:
    msg = "a volume of zero size"
    raise ValueError(msg)
