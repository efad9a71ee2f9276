"""The proof that goes with an export: every format and engine beside the network it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._version import __version__
from ..errors import UserError
from ..growth.trained import Trained
from ..inference import engines
from ..inference.formats import Source, read_format, write_format
from ..inference.patches import BATCH, Patches
from ..networks import agreement as parity
from ..networks.build import build_network
from ..networks.cost import Run, count_flops
from ..networks.surgery import count_parameters

LARGEST_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Reference:
    """What formats are compared with.

    Args:
        name: ``"trained network"`` or ``"model.pt"``.
        runs: the networks at hand, the reference first.
        outputs: of the reference, one for each batch of ``patches``.
        patches: what they were computed on.
        exclusive: one label a voxel.
    """

    name: str
    runs: Mapping[str, Run]
    outputs: list[Tensor]
    patches: Patches
    exclusive: bool


def trained_outputs(trained: Trained, patches: Patches, metadata: dict[str, Any]) -> list[Tensor]:
    """Outputs of a trained network for each batch of patches.

    Raises:
        UserError: when the network does not take the bundle's input or gives other channels.
    """
    channels = int(metadata["network_data_format"]["outputs"]["pred"]["num_channels"])
    try:
        with trained.settings():
            found = parity.outputs(trained.network, patches.batches)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        msg = (
            f"The network of {trained.run.path} does not take the input of metadata.json: {reason}"
        )
        raise UserError(msg) from None
    if found[0].size(1) != channels:
        msg = (
            f"The network of {trained.run.path} gives {found[0].size(1)} channels; metadata.json "
            f"of the bundle says {channels}. Export it into its own bundle."
        )
        raise UserError(msg)
    return found


def refuse_difference(trained: Trained, difference: dict[str, float]) -> None:
    """Raise UserError when the plain network's outputs are not the trained network's."""
    if difference["relative"] > LARGEST_DIFFERENCE:
        msg = (
            f"The exported network's outputs differ from the trained network's by "
            f"{difference['max_abs_difference']:.2e} ({trained.run.path}). Nothing was written."
        )
        raise UserError(msg)


def prove(
    source: Source, reference: Reference, spec: dict[str, Any], formats: list[str], engine: str
) -> dict[str, Any]:
    """Write formats, compare and measure them and engines; the content of ``parity.json``.

    Args:
        source: the staged bundle; formats are written into it.
        reference: what they must agree with.
        spec: of the network.
        formats: names of ``formats.PACKAGES``.
        engine: ``""``, ``"auto"``, ``"all"`` or names of ``engines.ENGINES`` with commas.

    Raises:
        UserError: for a format with less than 99.99 % equal labels.
    """
    runs = dict(reference.runs)
    for name in formats:
        runs[f"model.{name}"] = read_format(name, write_format(name, source), source)
    runs |= _engine_runs(source, engine)
    example = reference.patches.batches[0]
    base = build_network({**spec, "dendrites": {}}).eval()
    report = {
        "format": parity.FORMAT,
        "written_by": f"perforated_monai {__version__}",
        "reference": reference.name,
        "volumes": reference.patches.source,
        "patch": list(source.shape),
        "batch": BATCH,
        "free_axes": "batch" if source.fixed_size else "batch and space",
        "machine": parity.machine(),
        "parameters": {"base": count_parameters(base), "total": count_parameters(source.network)},
        "flops": {
            "base": count_flops(base, example),
            "total": count_flops(source.network, example),
        },
        "rows": _rows(runs, reference, source),
    }
    if engine == "auto":
        report["engine"] = _choice(runs, reference)
    return report


def _rows(runs: dict[str, Run], reference: Reference, source: Source) -> list[dict[str, Any]]:
    rows = []
    batches = reference.patches.batches
    costs = parity.measure(runs, batches[0])
    for name, run in runs.items():
        found = parity.outputs(run, batches)
        compared = parity.compare(reference.outputs, found, reference.exclusive)
        agreement = compared["label_agreement"]
        if name.startswith("model.") and agreement < parity.LEAST_AGREEMENT:
            msg = (
                f"{name} gives other labels than the {reference.name}: {agreement:.4%} agree on "
                f"{reference.patches.source}, 99.99 % are needed. The bundle was left as it was."
            )
            raise UserError(msg)
        file = source.folder / "models" / name
        rows.append(
            {
                "name": name,
                "file_bytes": file.stat().st_size if file.is_file() else None,
                "max_abs_difference": compared["max_abs_difference"],
                "label_agreement": agreement,
                **costs[name],
            }
        )
    return rows


def _engine_runs(source: Source, engine: str) -> dict[str, Run]:
    if not engine:
        return {}
    every = engine in ("auto", "all")
    names = list(engines.ENGINES) if every else [n.strip() for n in engine.split(",")]
    runs = engines.load_engines(source, names, required=not every)
    return {f"engine {name}": run for name, run in runs.items()}


def _choice(runs: dict[str, Run], reference: Reference) -> dict[str, str]:
    tried = {n.removeprefix("engine "): r for n, r in runs.items() if n.startswith("engine ")}
    patches = reference.patches
    name, reason = engines.fastest(tried, patches.batches, reference.exclusive, patches.source)
    return {"name": name, "reason": reason}
