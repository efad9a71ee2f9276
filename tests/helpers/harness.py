"""Real training runs that are small: phantoms, the shipped configs, a two-level UNet."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from perforated_monai import UserError
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"

CPU = "$torch.device('cpu')"
# Everything that makes the shipped configuration small; all else is as shipped.
SMALL = {
    "base_network_def::channels": [4, 8],
    "base_network_def::strides": [2],
    "base_network_def::num_res_units": 1,
    "roi_size": [16, 16, 16],
    "val_roi_size": [48, 64, 48],  # one window a volume
    "learning_rate": 0.01,
    "epochs": 3,
    "device": CPU,
}
# Two growths of copies in nine epochs, whatever the Dice does: the formulas of layers are the same
# for every kind, and copies have the most of them.
GROW = {
    "dendrites::kind": "copy",
    "dendrites::switch": "fixed",
    "dendrites::patience": 3,
    "dendrites::max_dendrites": 2,
    "dendrites::improvement_threshold": [0.0],
    "epochs": 9,
}


def labelled_phantoms(folder: Path, cases: int, kind: str, shape: Any = None) -> Path:
    """Labelled phantoms of a kind in ``folder``, all of them in the folds of ``manifest.json``."""
    make_phantoms(folder, cases=cases, kind=kind, shape=shape)
    write_manifest(folder, folder / "manifest.json", "phantom", test=False)
    return folder


def initialised(
    bundle: Path, files: Iterable[str | Path], data: Path, out: Path, **changes: Any
) -> ConfigWorkflow:
    """MONAI's own workflow on configs of a bundle, initialised and ready to run.

    Args:
        bundle: its folder.
        files: names in its ``configs`` folder, or absolute paths.
        data: ``dataset_dir``; the manifest beside the data is named where there is one.
        out: ``output_dir``.
        changes: further overrides, and arguments of ``ConfigWorkflow``.
    """
    paths = [str(bundle / "configs" / name) for name in files]
    kind = "infer" if any(Path(path).stem == "inference" for path in paths) else "train"
    manifest = data / "manifest.json"
    named = {"manifest": str(manifest)} if kind == "train" and manifest.is_file() else {}
    made = ConfigWorkflow(
        config_file=paths,
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(data),
        output_dir=str(out),
        **(named | changes),
    )
    made.initialize()
    return made


def workflow(data: Path, out: Path, dendrites: bool = False, **changes: Any) -> ConfigWorkflow:
    """The shipped training workflow on a phantom folder, small."""
    files = ["train.json", *(["dendrites.yaml"] if dendrites else [])]
    overrides = SMALL | (GROW if dendrites else {}) | changes
    return initialised(BUNDLE, files, data, out, **overrides)


def segment_by_monai(bundle: Path, scans: Path, out: Path, **changes: Any) -> None:
    """What ``python -m monai.bundle run`` of inference.json writes."""
    initialised(bundle, ["inference.json"], scans, out, device=CPU, **changes).run()


def train(data: Path, out: Path, dendrites: bool = False, **changes: Any) -> ConfigWorkflow:
    """Run a training to its end and return its workflow."""
    made = workflow(data, out, dendrites, **changes)
    made.run()
    return made


def kill_in(epoch: int, data: Path, out: Path, **changes: Any) -> None:
    """Train with dendrites and end this process by SIGKILL when an epoch starts."""
    made = workflow(data, out, dendrites=True, **changes)
    trainer = made.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=epoch), kill_self)
    made.run()


def small_window_bundle(folder: Path) -> Path:
    """The shipped configs in a folder, with a window of 16 voxels a side."""
    shutil.copytree(BUNDLE / "configs", folder / "configs")
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    for side in metadata["network_data_format"].values():
        for entry in side.values():
            entry["spatial_shape"] = [16, 16, 16]
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    return folder


def history(out: Path) -> list[dict[str, Any]]:
    """Events of a run, without what a clock wrote."""
    lines = (out / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Tensors of a run's best network, without the library's own text buffer (it holds times)."""
    best = torch.load(out / "checkpoints" / "best.pt", weights_only=True)["network"]
    return {k: v for k, v in best.items() if k != "tracker_string"}


def same_run(one: Path, other: Path) -> None:
    """Assert that two runs ended bit for bit alike."""
    assert history(one) == history(other)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; its exit code, or minus the signal that ended it.

    A fresh process would spend most of its time on imports.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@contextlib.contextmanager
def refused(pattern: str) -> Iterator[None]:
    """Expect a ``UserError`` that matches, also inside what MONAI wraps around it."""
    with pytest.raises(Exception) as caught:
        yield
    error = user_error(caught.value)
    assert error is not None, caught.value
    assert re.search(pattern, str(error)), str(error)


def user_error(error: BaseException | None) -> UserError | None:
    """The ``UserError`` in a chain of causes, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def kill_self() -> None:
    """SIGKILL: no cleaning up, no last words."""
    os.kill(os.getpid(), signal.SIGKILL)
