"""The command ``export``: into the bundle, into a new one, or the dendrites alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

from ..errors import UsageError
from .arguments import Count, Limits

if TYPE_CHECKING:
    from ..export.options import Proof


class FormatOptions(TypedDict):
    """Which formats are written, and what they are compared on."""

    formats: list[str]
    volumes: str | None
    proof: Proof
    engine: str


def export(
    run: str = "",
    bundle: str = "",
    formats: str = "installed",
    volumes: str = "",
    engine: str = "",
    out: str = "",
    delta: str = "",
    patches: Count = 8,
    size: Annotated[int, Limits(0)] = 0,
    trust: bool = False,
) -> int:
    """Write the best network of a training run into a bundle, as a plain network.

    Args:
        run: run folder (the output_dir of a training); without it the formats of the bundle's own
            model.pt are written.
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        formats: beside model.pt: of ts, pt2, onnx, with commas; "installed" takes those whose
            packages are there, "none" none.
        volumes: folder of NIfTI volumes to compare the formats on; phantoms by default.
        engine: "auto" measures every installed engine and names the best; "all" or names measure.
        out: write a copy of the bundle with the run's network into this new folder instead.
        delta: of a run with freeze_base, write only the dendrites into this new folder.
        patches: how many patches the proof compares; fewer are faster.
        size: most voxels along a side of a patch; by default the bundle's window.
        trust: run code and names of the bundle that verify refuses.
    """
    from ..bundle.folder import bundle_folder
    from ..bundle.verify.trust import ALL_WORKFLOWS, trusted
    from ..export.into_bundle import export_formats, export_run
    from ..export.options import Proof
    from ..inference.formats import as_list, choose_formats, unavailable
    from ..networks.fold import folded_line

    if not bundle:
        msg = "export needs --bundle DIR, and the run folder unless model.pt is there already."
        raise UsageError(msg)
    line = trusted(bundle_folder(str(bundle)), ALL_WORKFLOWS, trust)
    chosen = choose_formats(None if formats == "installed" else as_list(formats))
    print(line)
    options = FormatOptions(
        formats=chosen,
        volumes=volumes or None,
        proof=Proof(patches, size, say=_say),
        engine=",".join(as_list(engine)),
    )
    if out or delta:
        if not run:
            msg = "export --out and --delta need the run folder: export RUN --bundle SRC --out NEW."
            raise UsageError(msg)
        return _export_apart(str(run), str(bundle), str(out), str(delta), options, trust)
    if run:
        record = export_run(str(run), str(bundle), **options)
    else:
        record = export_formats(str(bundle), **options)
    grown = sum(d["count"] for d in record["dendrites"].values())
    shape = f"{len(record['dendrites'])} layers with dendrites ({grown} in all)"
    if not record["dendrites"]:
        shape = 'no dendrites ("dendrites": {}): a plain network'
    print(f"{Path(bundle) / 'models' / 'model.pt'}: {record['base']['name']}, {shape},")
    print(
        f"{record['parameters']['total']:,} parameters; max abs difference to the trained "
        f"network {record['max_abs_difference']:.1e}"
    )
    if "folded" in record:
        print(folded_line(record["folded"]))
    print(f"Other formats: {', '.join(f'model.{name}' for name in chosen) or 'none'}")
    for note in unavailable() if formats == "installed" else []:
        print(note)
    return 0


def _say(line: str) -> None:
    """How far a proof is, on the stream of messages."""
    print(line, file=sys.stderr, flush=True)


def _export_apart(
    run: str, bundle: str, out: str, delta: str, options: FormatOptions, trust: bool
) -> int:
    """``export --out`` and ``export --delta``: the bundle stays as it is."""
    from ..export.delta import export_delta
    from ..export.new_bundle import export_to_new_bundle

    if out:
        record = export_to_new_bundle(run, bundle, out, **options, trust=trust)
        parameters = record["parameters"]
        grown = parameters["total"] - parameters["base"]
        print(
            f"{out}: {record['base']['name']} with {len(record['dendrites'])} dendritic layers, "
            f"{parameters['total']:,} parameters ({grown:,} of dendrites); max abs difference to "
            f"the trained network {record['max_abs_difference']:.1e}"
        )
    if delta:
        record = export_delta(run, bundle, delta)
        sizes = record["bytes"]
        share = sizes["delta"] / sizes["base"]
        print(
            f"{delta}: dendrites.pt, {sizes['delta']:,} bytes, {share:.1%} of the base weights; "
            "with them it gives the trained network bit for bit"
        )
    return 0
