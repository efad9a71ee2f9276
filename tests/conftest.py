"""Shared parts of the tests: tiny networks, 16-voxel volumes, and a guard of process globals."""

import builtins
import contextlib
import importlib.util
import multiprocessing
import os
import pdb
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from helpers.once import made_once
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest
from perforated_monai.dendrites.config import DendriteConfig
from perforated_monai.growth.tracker import Tracker

REPOSITORY = Path(__file__).resolve().parents[1]

# Sums in one thread have one order: equal inputs give equal bits.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_unchanged() -> Iterator[None]:
    """The tracker's library changes these; whoever calls it must put them back."""
    before = (Path.cwd(), pdb.set_trace, sys.stdin, builtins.input)
    yield
    assert (Path.cwd(), pdb.set_trace, sys.stdin, builtins.input) == before


@pytest.fixture
def repo() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture
def hippocampus() -> Path:
    """MSD Task04, 208 labelled volumes; it lies beside the repository and is never part of it."""
    folder = REPOSITORY.parent / "shared" / "data" / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no real data: {os.path.relpath(folder, REPOSITORY)} is not there")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten hippocampus phantoms in MSD layout with their manifest."""
    return _phantoms(tmp_path_factory, "ten", 10)


@pytest.fixture(scope="session")
def few_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of them."""
    return _phantoms(tmp_path_factory, "five", 5)


def _phantoms(factory: pytest.TempPathFactory, name: str, cases: int) -> Path:
    def make(folder: Path) -> None:
        data = make_phantoms(folder / "phantoms", cases=cases, seed=0)
        write_manifest(data, data / "manifest.json", "phantom", test=False)

    return made_once(factory, name, make) / "phantoms"


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = ((p, p.stat()) for p in folder.rglob("*") if p.is_file())
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found}


def _trained(
    factory: pytest.TempPathFactory, name: str, phantoms: Path, dendrites: bool
) -> Iterator[Path]:
    """Train in a child, then hand the run folder out and see that nobody writes to it."""
    from helpers.harness import in_child, train

    def make(folder: Path) -> None:
        assert in_child(lambda: train(phantoms, folder / "run", dendrites) and None) == 0

    out = made_once(factory, name, make) / "run"
    before = _files(out)
    yield out
    assert _files(out) == before, "a test wrote to a run that others read"


@pytest.fixture(scope="session")
def plain_run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a finished run of three epochs, to read only."""
    yield from _trained(tmp_path_factory, "plain", phantoms, dendrites=False)


@pytest.fixture(scope="session")
def grown_run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a finished run with two growths, to read only."""
    if importlib.util.find_spec("perforatedai") is None:
        pytest.skip("extra train is not installed: nothing can grow here")
    yield from _trained(tmp_path_factory, "grown", phantoms, dendrites=True)


@pytest.fixture(scope="session")
def phantom_study(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The committed phantom study after its run, see ``study_runs``."""
    from helpers.study_runs import Done, run_phantom_study

    folder = made_once(tmp_path_factory, "study", lambda f: run_phantom_study(phantoms, f))
    return Done.read(phantoms, folder)


@pytest.fixture
def tiny_unet() -> Callable[..., nn.Module]:
    """``tiny_unet(dims=3, **changes)``: a UNet of two levels, 1 channel in, 3 out, from seed 0."""

    def make(dims: int = 3, **changes: object) -> nn.Module:
        torch.manual_seed(0)
        arguments = {"channels": (4, 8), "strides": (2,), "num_res_units": 1} | changes
        return UNet(spatial_dims=dims, in_channels=1, out_channels=3, **arguments)

    return make


@pytest.fixture
def volume() -> Callable[..., Tensor]:
    """``volume(dims=3, batch=2, channels=1, size=16, dtype=float32)``: normal noise, seed 0."""

    def make(
        dims: int = 3,
        batch: int = 2,
        channels: int = 1,
        size: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (batch, channels, *[size] * dims)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return make


@pytest.fixture
def forked() -> Callable[[Callable[[], object]], tuple[int, str]]:
    """``forked(action)``: run it in a child process; its exit code and the text of its error.

    A signal ends the child with minus its number.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    context = multiprocessing.get_context("fork")

    def run(action: Callable[[], object]) -> tuple[int, str]:
        receive, send = context.Pipe(duplex=False)

        def child() -> None:
            try:
                action()
            except Exception as error:
                send.send(f"{type(error).__name__}: {error}")
                os._exit(1)
            os._exit(0)

        process = context.Process(target=child)
        process.start()
        send.close()
        process.join(60)
        said = receive.recv() if process.exitcode == 1 else ""
        return process.exitcode, said

    return run


@pytest.fixture
def full_disk(forked: Callable) -> Callable[[Callable[[], object], int], str]:
    """``full_disk(action, room)``: no file may pass ``room`` bytes; the text of the error."""
    resource = pytest.importorskip("resource", reason="file size limits are a Unix feature")

    def run(action: Callable[[], object], room: int) -> str:
        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            action()

        code, said = forked(limited)
        assert code == 1, "the action did not fail"
        return said

    return run


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Callable[..., Tracker]]:
    """``grow(network, x, sets, **settings)``: let the real tracker add dendrite sets, in place.

    Scores rise after each growth and then stay, so that every set is accepted. All dendrite
    weights are drawn anew at the end: as grown they hardly matter. The tracker is open until the
    test ends.
    """
    if importlib.util.find_spec("perforatedai") is None:
        pytest.skip("extra train is not installed: nothing can grow here")
    with contextlib.ExitStack() as stack:

        def run(network: nn.Module, x: Tensor, sets: int, **settings: object) -> Tracker:
            config = DendriteConfig(patience=1, max_dendrites=max(sets, 1), tries=1, **settings)
            tracker = Tracker(network, config, tmp_path / "tracker")
            tracker.open()
            stack.callback(tracker.close)
            score = 0.1
            while tracker.sets < sets:
                for gain in (0.1, 0.0, 0.0):
                    _train_step(tracker, x)
                    score += gain
                    optimizer = torch.optim.SGD([p for _, p in tracker.trainable()], 0.01)
                    outcome = tracker.add_score(score, optimizer)
                    assert outcome.event in ("", "grow"), outcome
                    if outcome.event:
                        break
            _perturb_dendrites(network)
            return tracker

        yield run


def _train_step(tracker: Tracker, x: Tensor) -> None:
    parameters = [p for _, p in tracker.trainable()]
    optimizer = torch.optim.SGD(parameters, 0.01)
    out = tracker.network(x)
    (out if isinstance(out, Tensor) else out[0]).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def _perturb_dendrites(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "dendrite" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
