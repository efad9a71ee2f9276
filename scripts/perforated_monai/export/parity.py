"""The proof that goes with an export: every format and engine beside the network it came from.

``prove`` measures and gives the content of ``parity.json``; ``parity.md.jinja`` makes its table,
which stands in the bundle's page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor, nn

from .._version import __version__
from ..errors import UserError
from ..files import write_json, write_text
from ..inference import engines
from ..inference.formats import Source, is_fixed, read_format, write_format
from ..inference.patches import BATCH, Patches
from ..networks import agreement
from ..networks.build import build_network
from ..networks.cost import Run, count_flops
from ..networks.surgery import count_parameters
from .options import Proof

FORMAT = 1
_MARKERS = re.compile(r"(<!-- parity -->).*?(<!-- /parity -->)", re.DOTALL)


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


def prove(
    source: Source,
    reference: Reference,
    spec: dict[str, Any],
    formats: list[str],
    engine: str,
    proof: Proof | None = None,
) -> dict[str, Any]:
    """Write formats, compare and measure them and engines; the content of ``parity.json``.

    Args:
        source: the staged bundle; formats are written into it.
        reference: what they must agree with.
        spec: of the network.
        formats: names of ``formats.PACKAGES``.
        engine: ``""``, ``"auto"``, ``"all"`` or names of ``engines.ENGINES`` with commas.
        proof: who hears how far it is.

    Raises:
        UserError: for a format with less than 99.99 % equal labels.
    """
    proof = proof or Proof()
    runs = dict(reference.runs)
    for name in formats:
        proof.say(f"model.{name} is written")
        runs[f"model.{name}"] = read_format(name, write_format(name, source), source)
    runs |= _engine_runs(source, engine)
    example = reference.patches.batches[0]
    base = build_network({**spec, "dendrites": {}}).eval()
    report = {
        "format": FORMAT,
        "written_by": f"perforated_monai {__version__}",
        "reference": reference.name,
        "volumes": reference.patches.source,
        "patch": list(source.shape),
        "batch": BATCH,
        "free_axes": "batch" if source.fixed_size else "batch and space",
        "machine": agreement.machine(),
        "parameters": {"base": count_parameters(base), "total": count_parameters(source.network)},
        "flops": {
            "base": count_flops(base, example),
            "total": count_flops(source.network, example),
        },
        "rows": _rows(runs, reference, source, proof),
    }
    if engine == "auto":
        report["engine"] = _choice(runs, reference)
    return report


def source_of(
    stage: Path, spec: Mapping[str, Any], network: nn.Module, shape: tuple[int, ...]
) -> Source:
    """What formats are written from."""
    return Source(stage, network, shape, is_fixed(spec["base"]["name"]))


def write_proof(stage: Path, bundle: Path, report: dict[str, Any]) -> None:
    """Write ``parity.json``, and its table into the page that ``bundle`` has."""
    write_json(stage / "models" / "parity.json", report)
    page = bundle / "docs" / "README.md"
    if page.is_file():
        (stage / "docs").mkdir(exist_ok=True)
        text = page.read_text(encoding="utf-8")
        write_text(stage / "docs" / "README.md", put_between_markers(text, markdown(report)))


def markdown(report: Mapping[str, Any]) -> str:
    """The table of ``docs/README.md``."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown
    )
    return templates.get_template("parity.md.jinja").render(report).rstrip("\n")


def put_between_markers(page: str, table: str) -> str:
    """``page`` with the table between its two parity markers; unchanged where it has none."""
    return _MARKERS.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", page)


def _rows(
    runs: dict[str, Run], reference: Reference, source: Source, proof: Proof
) -> list[dict[str, Any]]:
    rows = []
    batches = reference.patches.batches
    proof.say(f"time and memory of a patch, {len(runs)} networks")
    costs = agreement.measure(runs, batches[0])
    for name, run in runs.items():
        outputs = agreement.outputs(run, batches, proof.progress(name))
        compared = agreement.compare(reference.outputs, outputs, reference.exclusive)
        equal = compared["label_agreement"]
        if name.startswith("model.") and equal < agreement.LEAST_AGREEMENT:
            msg = (
                f"{name} gives other labels than the {reference.name}: {equal:.4%} agree on "
                f"{reference.patches.source}, 99.99 % are needed. The bundle was left as it was."
            )
            raise UserError(msg)
        file = source.folder / "models" / name
        rows.append(
            {
                "name": name,
                "file_bytes": file.stat().st_size if file.is_file() else None,
                "max_abs_difference": compared["max_abs_difference"],
                "label_agreement": equal,
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
