"""Several processes with one network: process group, rank 0's decisions, DDP wrappers.

Every function works in a single process too, where it costs nothing. The tracker runs on rank 0
alone: ``from_main`` hands what it decided to the others, and ``wrap`` gives every rank a new
``DistributedDataParallel`` around the network as it is then. Nobody restarts.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import re
from collections.abc import Callable, Sized
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..dendrites.wrapped import is_never_reduced
from ..errors import UserError

T = TypeVar("T")

_PEER_GONE = re.compile(
    r"closed by (remote )?peer|reset by peer|broken pipe|remote process exited", re.IGNORECASE
)
_FAILURE = "perforated_monai/failure"


def start(backend: str = "nccl", timeout: float = 600.0) -> None:
    """Join the process group that ``torchrun`` describes in the environment.

    Args:
        backend: ``nccl`` (one GPU a process) or ``gloo`` (CPU).
        timeout: seconds a rank waits for another one; a rank that dies ends the others long before.

    Raises:
        UserError: not started by ``torchrun``, unknown backend, or fewer GPUs than processes.
    """
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        msg = (
            f"This overlay needs torchrun ({', '.join(missing)} is not set): start with "
            "torchrun --standalone --nproc_per_node=2 -m monai.bundle run, or leave it out."
        )
        raise UserError(msg)
    place = device(backend)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # Decisions travel over gloo beside nccl too: it notices a dead peer at once, and needs no GPU.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo",
        timeout=datetime.timedelta(seconds=float(timeout)),
    )


def stop() -> None:
    """Leave the process group, if there is one."""
    if _running():
        dist.destroy_process_group()


def device(backend: str = "nccl") -> torch.device:
    """Device of this process: GPU number ``LOCAL_RANK`` with ``nccl``, the CPU with ``gloo``.

    Raises:
        UserError: for another backend, or when there is no such GPU.
    """
    if backend not in ("nccl", "gloo"):
        msg = f"backend must be nccl (GPUs) or gloo (CPU); got {backend!r}."
        raise UserError(msg)
    if backend == "gloo":
        return torch.device("cpu")
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        msg = (
            f"Process {local} of this machine needs a GPU of its own; {gpus} found. Lower "
            "--nproc_per_node, or train on the CPU with --backend gloo."
        )
        raise UserError(msg)
    return torch.device("cuda", local)


def rank() -> int:
    """Number of this process in the run; 0 decides and writes."""
    return dist.get_rank() if _running() else 0


def world() -> int:
    """Processes in the run."""
    return dist.get_world_size() if _running() else 1


def from_main(produce: Callable[[], T]) -> T:
    """What ``produce()`` gives on rank 0, on every rank; only rank 0 calls it.

    Tensors in it must be on the CPU. Every rank must make this call.

    Raises:
        UserError: on the other ranks, with the message of what ``produce`` raised on rank 0.
    """
    if world() == 1:
        return produce()
    box: list = [None, None]
    if rank() == 0:
        try:
            box[0] = produce()
        except Exception as error:
            box[1] = _last_line(error)
            dist.broadcast_object_list(box, src=0)
            raise
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        msg = f"Rank 0 stopped this run: {box[1]}"
        raise UserError(msg)
    return box[0]


def gather(items: list[T]) -> list[T]:
    """The items of all ranks, in the order of the ranks; every rank must make this call."""
    if world() == 1:
        return items
    parts: list = [None] * world()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def mean(value: float) -> float:
    """Mean of a number over all ranks."""
    if world() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / world()


def shard(dataset: Sized) -> list[int]:
    """Indices that this rank validates: every case once, so shares differ by one at the most.

    Raises:
        UserError: when there are more ranks than cases, since MONAI skips an empty loader and the
            other ranks would wait for its metric.
    """
    if len(dataset) < world():
        msg = f"{world()} processes for {len(dataset)} validation cases: start one a case at most."
        raise UserError(msg)
    return list(range(rank(), len(dataset), world()))


def wrap(network: nn.Module) -> nn.Module:
    """The network inside a new DDP, whose initial broadcast also makes the ranks equal.

    Drop the last reference to an earlier wrapper first: its hooks sit on the same parameters until
    it is collected.
    """
    if world() == 1:
        return network
    gc.collect()
    names = [n for n, _ in [*network.named_parameters(), *network.named_buffers()]]
    # The reducer would wait for what never gets a gradient ("Expected to have finished reduction in
    # the prior iteration"), and find_unused_parameters=True aborts on what differs in size.
    leave_unreduced(network, [n for n in names if is_never_reduced(n)])
    place = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[place] if place.type == "cuda" else None)


def leave_unreduced(network: nn.Module, names: list[str]) -> None:
    """Let the next DDP pass over these tensors of submodules; torch's only call is private."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, names)


def shared_store() -> dist.Store:
    """The store of the process group's rendezvous; torch has only a private call for it."""
    return dist.distributed_c10d._get_default_store()


def explain(error: BaseException) -> BaseException:
    """The error that this rank should raise: its own, or the one that a peer has reported.

    A rank tells the others of its own error. A rank whose peer is gone only sees a closed
    connection, so it raises what that peer has told.
    """
    if world() == 1 or not isinstance(error, Exception):
        return error
    store = shared_store()
    lost = _PEER_GONE.search(str(error)) is not None
    # torchrun itself holds the store; without it, the store goes with rank 0.
    with contextlib.suppress(RuntimeError):
        if lost and store.check([_FAILURE]):
            return UserError(store.get(_FAILURE).decode())
        if not lost:
            # Only the first error is kept: later ones follow from it.
            store.compare_set(_FAILURE, "", f"Rank {rank()} stopped this run: {_last_line(error)}")
    if lost:
        return UserError(
            "Another process of this run ended: its own last line says why, unless it was killed "
            "(out of memory?). The same command continues from the last checkpoint."
        )
    return error


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
