"""``model.ts``, ``model.pt2`` and ``model.onnx``: how each is written and read."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ..bundle.configs import find_config
from ..errors import UserError
from ..networks.cost import Run
from ..networks.makers import is_own
from .quiet import without_messages, without_warnings

PACKAGES: dict[str, list[str]] = {
    "ts": [],
    "pt2": [],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
}
# Window attention computes its shapes in Python: one spatial size a file, any batch.
FIXED_SIZE = ("SwinUNETR",)


def is_fixed(name: str) -> bool:
    """Whether a network takes one window size: a name of a spec; own code is not known here."""
    return name in FIXED_SIZE or is_own(name)


@dataclass(frozen=True)
class Source:
    """What a format is written from.

    Args:
        folder: a bundle with ``configs/`` and ``models/model.pt`` of the network.
        network: the same network in memory, in eval mode.
        shape: ``(C, *space)`` of one patch.
        fixed_size: only the batch axis is free.
        written: the folder's other models, where it has some, are of this network.
    """

    folder: Path
    network: nn.Module
    shape: tuple[int, ...]
    fixed_size: bool
    written: bool = True

    def example(self) -> Tensor:
        """Two patches of noise: a batch of one would be taken for a constant."""
        return torch.randn((2, *self.shape), generator=torch.Generator().manual_seed(0))


def choose_formats(formats: Sequence[str] | None) -> list[str]:
    """Those asked for, or with None all whose packages are installed.

    Raises:
        UserError: for an unknown name, or a missing package (it names the extra).
    """
    if formats is None:
        return [name for name in PACKAGES if not missing_packages(PACKAGES[name])]
    for name in formats:
        if name not in PACKAGES:
            msg = f"formats takes {', '.join(PACKAGES)}; got {name!r}."
            raise UserError(msg)
        if missing_packages(PACKAGES[name]):
            raise UserError(_missing(name))
    return list(formats)


def unavailable() -> list[str]:
    """One sentence for each format whose packages are missing: what they are and the extra."""
    return [_missing(name) for name in PACKAGES if missing_packages(PACKAGES[name])]


def as_list(value: object) -> list[str]:
    """Names given on the command line: with commas, as a tuple (fire makes one), or "none"."""
    names = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return [str(n).strip() for n in names if str(n).strip() not in ("", "none", "None")]


def _missing(name: str) -> str:
    missing = ", ".join(missing_packages(PACKAGES[name]))
    return (
        f"model.{name} needs {missing}: pip install 'perforated-monai[export]', "
        f"or leave {name} out of --formats."
    )


def missing_packages(packages: list[str]) -> list[str]:
    """Those of ``packages`` that are not installed."""
    return [p for p in packages if importlib.util.find_spec(p) is None]


def write_format(name: str, source: Source) -> Path:
    """Write ``models/model.<name>`` into the source's folder and return its path.

    Raises:
        UserError: when the network cannot be written so; torch's own reason is given.
    """
    file = source.folder / "models" / f"model.{name}"
    writer = {"ts": _write_ts, "pt2": _write_pt2, "onnx": _write_onnx}[name]
    try:
        with without_warnings(), torch.no_grad():  # exporters warn about their own internals
            writer(source, file)
    except Exception as error:  # every exporter has its own family of errors
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"{type(source.network).__name__} cannot be written as model.{name} "
            f"({type(error).__name__}: {reason}). Leave {name} out of --formats."
        )
        raise UserError(msg) from error
    return file


def read_format(name: str, file: Path, source: Source) -> Run:
    """A callable ``(B, C, *space) -> (B, K, *space)`` of a written file, on the CPU.

    Calling it raises UserError for another window where the network takes one size only.
    """
    with without_warnings():  # TorchScript is deprecated, but it is what Deploy reads
        if name == "ts":
            return one_size(torch.jit.load(str(file), map_location="cpu").eval(), source)
        if name == "pt2":
            return one_size(torch.export.load(str(file)).module(), source)
        return one_size(onnx_session(file), source)


def one_size(run: Run, source: Source) -> Run:
    """``run``, refusing other windows than the one a ``fixed_size`` network was written for."""
    if not source.fixed_size:
        return run

    def checked(x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != source.shape:
            wanted, got = ("×".join(map(str, s)) for s in (source.shape, x.shape[1:]))
            msg = (
                f"{type(source.network).__name__} was written for one window, {wanted} (channels "
                f"and voxels; any batch), for its attention computes shapes in Python; got {got}. "
                "Set roi_size to it, or spatial_shape in metadata.json, and export again."
            )
            raise UserError(msg)
        return run(x)

    return checked


def exported_program(source: Source) -> torch.export.ExportedProgram:
    """``torch.export`` of the network: free batch axis, free space unless ``fixed_size``."""
    x = source.example()
    axes = [0] if source.fixed_size else [0, *range(2, x.dim())]
    free = dict.fromkeys(axes, Dim.DYNAMIC)
    return torch.export.export(source.network, (x,), dynamic_shapes=(free,))


def onnx_session(model: Path | bytes) -> Run:
    """ONNX Runtime on the CPU with as many threads as torch has, of a file or its bytes."""
    # onnxruntime 1.31 reports its use to its maker unless this is set before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    given = model if isinstance(model, bytes) else str(model)
    # Its threads would wait in a loop after each call, on the cores that reading, writing or the
    # next engine of a comparison needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])

    return run


def _write_ts(source: Source, file: Path) -> None:
    """By MONAI's own command, which adds the extra files that Deploy reads."""
    from monai.bundle.scripts import ckpt_export, logger

    options: dict[str, Any] = {}
    if source.fixed_size:
        options = {"use_trace": True, "input_shape": list(source.example().shape)}
    with without_messages(logger):  # it lists its arguments, with absolute paths
        ckpt_export(
            net_id="network_def",
            filepath=str(file),
            ckpt_file=str(source.folder / "models" / "model.pt"),
            meta_file=str(source.folder / "configs" / "metadata.json"),
            config_file=str(find_config(source.folder, "inference")),
            bundle_root=str(source.folder),
            **options,
        )


def _write_pt2(source: Source, file: Path) -> None:
    torch.export.save(exported_program(source), str(file))


def _write_onnx(source: Source, file: Path) -> None:
    program: Any = torch.onnx.export(
        exported_program(source),
        dynamo=True,
        input_names=["image"],
        output_names=["pred"],
        verbose=False,
    )
    program.save(str(file), external_data=False)
