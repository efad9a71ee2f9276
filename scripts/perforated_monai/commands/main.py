"""``python -m perforated_monai <command>``: one line on failure, exit codes as documented.

0 done, 1 failed, 2 wrong usage, 3 done for some cases (each failure named).
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire

from ..errors import UsageError, UserError
from .overlay import export_apart, overlay
from .share import card, efficiency, pack, verify
from .study import report, study


def demo(out: str = "demo_output") -> int:
    """Phantoms -> growing a compressed UNet -> plain bundle -> segmentation; about five minutes.

    Args:
        out: folder for everything the demo writes.
    """
    from .demo import run_demo

    return run_demo(Path(out))


def phantom(out: str, cases: int = 20, seed: int = 0, channels: int = 1, kind: str = "") -> int:
    """Write a seeded data set of phantoms with labels, in MSD layout.

    Args:
        out: folder to write.
        cases: number of labelled volumes.
        seed: the same seed gives the same volumes.
        channels: 1 gives hippocampus-like volumes, 4 brain-tumour-like ones.
        kind: hippocampus or tumour; by default from the channels.
    """
    from ..data.phantoms import make_phantoms
    from ..data.prepare import write_manifest
    from ..data.schema import FOLDS
    from ..data.splits import FEWEST_WITH_TEST

    kind = kind or ("hippocampus" if channels == 1 else "tumour")
    folder = make_phantoms(Path(str(out)), cases, seed, channels, kind)
    if cases < FOLDS:
        print(f"{cases} phantoms in {folder}; a manifest with its {FOLDS} folds needs more")
        return 0
    test = cases >= FEWEST_WITH_TEST
    write_manifest(folder, folder / "manifest.json", "phantom", test=test)
    print(f"{cases} phantoms and manifest.json in {folder}")
    return 0


def prepare(
    name: str = "", root: str = "", write: str = "", manifest: str = "", download: bool = False
) -> int:
    """Verify a data set against a manifest and print its split, or make a manifest of your own.

    Args:
        name: a manifest: hippocampus_msd, brain_tumor_msd, spleen_msd, or a file; with --write the
            name that the new manifest gets.
        root: folder of the data in MSD layout (imagesTr, labelsTr).
        write: write a new manifest of the folder into this file.
        manifest: the same as the name.
        download: fetch the manifest's archive to the folder first.
    """
    from ..data.manifest import load_manifest
    from ..data.prepare import describe, write_manifest
    from ..data.prepare import download as fetch
    from .check import print_findings

    if not root or not (name or manifest or write):
        msg = "prepare needs --root DIR and a manifest name, or --root DIR --write FILE."
        raise UsageError(msg)
    if write:
        folder = Path(str(root))
        made = write_manifest(folder, str(write), str(name) or folder.resolve().name)
        print(describe(made, folder))
        return 0
    wanted = load_manifest(str(manifest or name))
    if download:
        fetch(wanted, str(root))
    print(describe(wanted, str(root)))
    return print_findings(str(root), wanted)


def check(
    target: str = "",
    manifest: str = "",
    workers: int = 0,
    headers: bool = False,
    json: str = "",
    report: str = "",
    list_rules: bool = False,
) -> int:
    """List everything that is wrong with a data set or a bundle; exit 1 when any is an error.

    Args:
        target: folder of a data set in MSD layout, or of a bundle.
        manifest: name or file; by default manifest.json of the folder, or what is there.
        workers: threads; by default one a core.
        headers: read headers only: fast, but damaged voxels stay unseen.
        json: also write the findings into this file.
        report: also write a page with pictures into this .html file.
        list_rules: print the rules instead.
    """
    from .check import check_target, print_rules

    if list_rules:
        return print_rules()
    if not target:
        msg = "check needs a folder: a data set in MSD layout or a bundle. --list-rules: the rules."
        raise UsageError(msg)
    read = "headers" if headers else "all"
    return check_target(str(target), str(manifest), read, workers, str(json), str(report))


def export(
    run: str = "",
    bundle: str = "",
    formats: str = "installed",
    volumes: str = "",
    engine: str = "",
    out: str = "",
    delta: str = "",
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
    """
    from ..export.into_bundle import export_formats, export_run
    from ..inference.formats import as_list, choose_formats, unavailable
    from ..networks.fold import folded_line

    if not bundle:
        msg = "export needs --bundle DIR, and the run folder unless model.pt is there already."
        raise UsageError(msg)
    chosen = choose_formats(None if formats == "installed" else as_list(formats))
    options = (chosen, volumes or None, ",".join(as_list(engine)))
    if out or delta:
        if not run:
            msg = "export --out and --delta need the run folder: export RUN --bundle SRC --out NEW."
            raise UsageError(msg)
        return export_apart(str(run), str(bundle), str(out), str(delta), options)
    if run:
        record = export_run(str(run), str(bundle), *options)
    else:
        record = export_formats(str(bundle), *options)
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


def segment(
    source: str,
    output: str,
    bundle: str,
    engine: str = "torch",
    device: str = "",
    overlap: float | None = None,
    tta: bool = False,
    probabilities: bool = False,
    workers: int | None = None,
    resume: bool = False,
    preview: bool = False,
    anonymous: bool = False,
    series: str = "",
    dicom_seg: bool = False,
    allow_out_of_range: bool = False,
    allow_phantom_weights: bool = False,
) -> int:
    """Segment a scan or a folder of them: a mask a case on its own grid, and cases.csv.

    Args:
        source: a .nii or .nii.gz file, a folder tree of them or of DICOM series, or a .csv or
            .json list of cases with several channels.
        output: folder of the masks; the input's relative paths are kept.
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        engine: torch, torch-bf16, onnxruntime, openvino, openvino-bf16, or auto: the fastest with
            99.9 % of torch's labels, measured on the first scans.
        device: cpu, cuda, cuda:1, ...; by default the first GPU, or the CPU.
        overlap: of the sliding windows, 0 to below 1; by default the bundle's.
        tta: average over mirror images.
        probabilities: also write <case>_prob.nii.gz.
        workers: cases in work at a time; by default one a core, 2 to 4, and for engines two more.
        resume: do only what is missing or changed.
        preview: also write <case>_preview.png.
        anonymous: name cases and masks by a hash of their path.
        series: DICOM series UID, or the name of a file of the series, where a folder holds several.
        dicom_seg: also write a DICOM SEG for DICOM input.
        allow_out_of_range: do not refuse volumes unlike the training volumes; mark them.
        allow_phantom_weights: use weights trained on synthetic phantoms, which are not for
            patients; every row says so.
    """
    from ..inference.segment import Options, Segmenter, bundle_code, segment_folder

    options = Options(
        workers=workers,
        resume=resume,
        preview=preview,
        anonymous=anonymous,
        series=str(series),
        dicom_seg=dicom_seg,
    )
    with bundle_code(str(bundle)):
        segmenter = Segmenter(
            str(bundle),
            engine=engine,
            device=str(device) or None,
            overlap=overlap,
            tta=tta,
            probabilities=probabilities,
            allow_out_of_range=allow_out_of_range,
            allow_phantom_weights=allow_phantom_weights,
        )
        return segment_folder(str(source), str(output), segmenter, options).exit_code


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "phantom": phantom,
    "prepare": prepare,
    "check": check,
    "overlay": overlay,
    "export": export,
    "segment": segment,
    "pack": pack,
    "verify": verify,
    "study": study,
    "report": report,
    "card": card,
    "efficiency": efficiency,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        _check_usage(argv)
        result: Any = fire.Fire(COMMANDS, command=argv, name="perforated_monai", serialize=_silent)
    except UsageError as error:
        print(f"perforated_monai: {error}", file=sys.stderr)
        return 2
    except (UserError, FileNotFoundError, PermissionError) as error:
        print(f"perforated_monai: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except fire.core.FireExit as error:
        return int(error.code)
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def _silent(_: Any) -> None:
    """Fire would print the exit code."""


def _check_usage(argv: list[str]) -> None:
    """Refuse an unknown command or flag before anything runs: fire complains only afterwards."""
    if not argv or argv[0] in ("-h", "--help"):
        return
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1) or list(COMMANDS)
        msg = f"no command {argv[0]!r}. Did you mean: {', '.join(close)}?"
        raise UsageError(msg)
    known = list(inspect.signature(COMMANDS[argv[0]]).parameters)
    for word in argv[1:]:
        flag = word[2:].split("=")[0].replace("-", "_")
        if word.startswith("--") and flag not in (*known, "help"):
            close = difflib.get_close_matches(flag, known, n=1) or known
            msg = f"{argv[0]} has no flag --{flag}. Known: {', '.join('--' + c for c in close)}."
            raise UsageError(msg)
