"""One data stream for every arm, worker count and restart: order and augmentation by seed alone.

``EpochSampler`` yields ``(epoch, index)``; ``CaseDataset`` seeds its random transforms from
``SeedSequence([seed, epoch, index])``. What a case looks like in an epoch therefore depends on run
seed, trainer epoch and case index, never on workers, restarts, growth or the order of loading.
MONAI's own DataLoader gives other augmentations for 0, 1 and 2 workers.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, Randomizable, apply_transform
from torch.utils.data import Dataset, Sampler, get_worker_info

from ..errors import UserError
from .cache import DiskCache
from .crops import KeptCrops
from .soft_targets import add_soft_targets
from .usable import refuse_constant

_MOST_WORKERS = 256

# MONAI's LoadImage advises to install packages and appends each reader's traceback; what the first
# one said is the cause.
_READER_SAID = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception): .+)$", re.MULTILINE)


class EpochSampler(Sampler):
    """A new permutation each epoch, from run seed and trainer epoch.

    ``RunHandler`` calls ``set_epoch`` when a trainer epoch starts; Ignite makes the epoch's data
    iterator after that.

    Args:
        dataset: anything with a length.
        seed: run seed.
        shuffle: False keeps the order of the list.
        rank, world: this process's share in a distributed run; shares are equal, so up to
            ``world - 1`` cases of an epoch's permutation are left out.
    """

    def __init__(
        self, dataset: Dataset, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        self.length = len(dataset)  # type: ignore[arg-type]
        self.seed, self.shuffle, self.rank, self.world = seed, shuffle, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; epochs count from 1."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        epoch = self.epoch
        for index in order[: len(self) * self.world][self.rank :: self.world]:
            yield epoch, int(index)

    def __len__(self) -> int:
        return self.length // self.world


class CaseDataset(Dataset):
    """Cases with their deterministic transforms kept in memory and random ones seeded by epoch.

    Args:
        data: datalist, one dict a case (``image``, ``label``, ``case``).
        transform: a ``Compose``; everything before its first random transform runs once a case
            when ``cache`` is on.
        seed: run seed.
        cache: keep the deterministic part in memory (Task04: about 0.2 GB).
        cache_dir: also keep it in files there, for later runs; None keeps none. A changed file or
            transform is noticed (see ``DiskCache``).
        crops_dir: keep what the random transforms make as well, for the other runs of this seed:
            arms of a study, restarts, workers; None keeps none (see ``KeptCrops``).
        crops_gb, crops_dtype: bound of that folder, and how it keeps images.
        soft_targets: folder with teachers' probabilities of each case, which then come under
            ``soft`` (see ``add_soft_targets``); None for none.

    Raises:
        UserError: for a case that cannot be read or transformed, naming its files.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
        seed: int = 0,
        cache: bool = True,
        cache_dir: str | Path | None = None,
        crops_dir: str | Path | None = None,
        crops_gb: float = 4.0,
        crops_dtype: str = "float32",
        soft_targets: str | Path | None = None,
    ) -> None:
        if not data:
            msg = "The datalist is empty: no case to read. Check dataset_dir, manifest and fold."
            raise UserError(msg)
        self.data = add_soft_targets(data, soft_targets) if soft_targets else list(data)
        self.transform = transform if isinstance(transform, Compose) else Compose(transform)
        self.seed = seed
        self.cache = cache
        steps = list(self.transform.flatten().transforms)
        first = next((i for i, t in enumerate(steps) if isinstance(t, Randomizable)), len(steps))
        self._fixed, self._random = Compose(steps[:first]), Compose(steps[first:])
        self._cached: dict[int, Any] = {}
        self._disk = DiskCache(cache_dir, self._fixed) if cache_dir else None
        self._crops = None
        if crops_dir:
            self._crops = KeptCrops(crops_dir, self.transform, seed, crops_gb, crops_dtype)
        # What each data worker is reading; shared, so that it outlives a worker that is killed.
        self._reading = torch.full((_MOST_WORKERS,), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        """A case by ``(epoch, index)``, or by index alone as of epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, int(key))
        info = get_worker_info()
        if info is None or info.id >= _MOST_WORKERS:
            return self._get(epoch, index)
        self._reading[info.id] = index
        item = self._get(epoch, index)
        self._reading[info.id] = -1
        return item

    def cases_being_read(self) -> list[str]:
        """Cases that data workers have begun and not finished; after a worker's death, its case."""
        return [_case_name(self.data[i]) for i in self._reading.tolist() if i >= 0]

    def _get(self, epoch: int, index: int) -> Any:
        if self._crops is None:
            return self._made(epoch, index)
        return self._crops.get(self.data[index], epoch, index, lambda: self._made(epoch, index))

    def _made(self, epoch: int, index: int) -> Any:
        item = self._deterministic(index)
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        self._random.set_random_state(seed=int(state[0]))
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: where a GPU is not in use it formats the whole stack each time.
            torch.default_generator.manual_seed(int(state[1]))
            with _meta_data(_has_meta_data(item)):
                return self._apply(self._random, item, index)

    def _deterministic(self, index: int) -> Any:
        if not self.cache:
            return self._prepared(index)
        if index not in self._cached:
            self._cached[index] = self._prepared(index)
        # Deep: a random transform that does not fire still notes itself in the tensor it was given.
        return copy.deepcopy(self._cached[index])

    def _prepared(self, index: int) -> Any:
        def make() -> Any:
            item = self._apply(self._fixed, self.data[index], index)
            refuse_constant(item, str(self.data[index].get("image")))
            return item

        return self._disk.get(self.data[index], make) if self._disk is not None else make()

    def _apply(self, transform: Compose, item: Any, index: int) -> Any:
        try:
            return apply_transform(transform, item, map_items=False)
        except Exception as error:
            raise UserError(describe_failure(self.data[index], error)) from error


def _has_meta_data(item: Any) -> bool:
    """Whether an item holds a tensor with meta data; where it is not a dict, it may."""
    return not isinstance(item, dict) or any(isinstance(v, MetaTensor) for v in item.values())


@contextlib.contextmanager
def _meta_data(wanted: bool) -> Iterator[None]:
    """Without them, let MONAI's transforms add none: many make a ``MetaTensor`` of any tensor."""
    before = get_track_meta()
    set_track_meta(before and wanted)
    try:
        yield
    finally:
        set_track_meta(before)


def _case_name(case: dict[str, Any]) -> str:
    return str(case.get("case") or case.get("image", "?"))


def describe_failure(case: dict[str, Any], error: BaseException) -> str:
    """One line: which files, the root cause, the cure."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    files = ", ".join(str(case[k]) for k in ("image", "label") if k in case)
    reason = f"{type(cause).__name__}: {cause}"
    if "cannot find a suitable reader" in reason:
        first = _READER_SAID.search(str(cause))
        reason = first[1] if first else reason
    reason = " ".join(reason.split())[:300]
    return f"Cannot read {files}: {reason}. Replace or remove this case."
