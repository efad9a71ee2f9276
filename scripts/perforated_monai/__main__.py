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

from .errors import UserError


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
    from .prepare import write_manifest
    from .phantom import make_phantoms

    kind = kind or ("hippocampus" if channels == 1 else "tumour")
    folder = make_phantoms(Path(out), cases=cases, seed=seed, channels=channels, kind=kind)
    write_manifest(folder, folder / "manifest.json", "phantom")
    print(f"{cases} phantoms and manifest.json in {folder}")
    return 0


def prepare(name: str = "", root: str = "", write: str = "") -> int:
    """Verify a data set against a manifest and print its split, or make a manifest of your own.

    Args:
        name: a manifest: hippocampus_msd, brain_tumor_msd, spleen_msd, or a file.
        root: folder of the data in MSD layout (imagesTr, labelsTr).
        write: with --root: write a new manifest of that folder into this file.
    """
    from .manifest import describe, load_manifest, verify, write_manifest

    if not root or not (name or write):
        msg = "prepare needs --root DIR and a manifest name, or --root DIR --write FILE."
        raise UsageError(msg)
    if write:
        manifest = write_manifest(Path(root), Path(write), name or Path(root).resolve().name)
        print(describe(manifest, root))
        return 0
    manifest = load_manifest(name)
    findings = verify(root, manifest)
    print(describe(manifest, root))
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def export(run: str, bundle: str) -> int:
    """Write the best network of a training run into a bundle, as a plain network.

    Args:
        run: run folder (the output_dir of a training).
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
    """
    from .export import export_run

    record = export_run(run, bundle)
    grown = sum(d["count"] for d in record["dendrites"].values())
    shape = f"{len(record['dendrites'])} layers with dendrites ({grown} in all)"
    if not record["dendrites"]:
        shape = 'no dendrites ("dendrites": {}): a plain network'
    print(f"{Path(bundle) / 'models' / 'model.pt'}: {record['base']['name']}, {shape},")
    print(
        f"{record['parameters']['total']:,} parameters; max abs difference to the trained "
        f"network {record['max_abs_difference']:.1e}"
    )
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
    workers: int = 2,
    resume: bool = False,
    preview: bool = False,
    anonymous: bool = False,
    series: str = "",
    dicom_seg: bool = False,
    allow_out_of_range: bool = False,
) -> int:
    """Segment a scan or a folder of them: a mask a case on its own grid, and cases.csv.

    Args:
        source: a .nii or .nii.gz file, a folder tree of them or of DICOM series, or a .csv or
            .json list of cases with several channels.
        output: folder of the masks; the input's relative paths are kept.
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        engine: torch or torchscript (models/model.ts).
        device: cpu, cuda, cuda:1, ...; by default the first GPU, or the CPU.
        overlap: of the sliding windows, 0 to below 1; by default the bundle's.
        tta: average over mirror images.
        probabilities: also write <case>_prob.nii.gz.
        workers: threads that read and preprocess ahead.
        resume: do only what is missing or changed.
        preview: also write <case>_preview.png.
        anonymous: name cases and masks by a hash of their path.
        series: DICOM series UID, or the name of a file of the series, where a folder holds several.
        dicom_seg: also write a DICOM SEG for DICOM input.
        allow_out_of_range: do not refuse volumes unlike the training volumes; mark them.
    """
    from .segment import Options, Segmenter, segment_folder

    segmenter = Segmenter(
        str(bundle),
        engine=engine,
        device=str(device) or None,
        overlap=overlap,
        tta=tta,
        probabilities=probabilities,
        allow_out_of_range=allow_out_of_range,
    )
    options = Options(workers, resume, preview, anonymous, str(series), dicom_seg)
    return segment_folder(str(source), str(output), segmenter, options).exit_code


class UsageError(Exception):
    """Wrong use of a command; exit code 2."""


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "phantom": phantom,
    "prepare": prepare,
    "export": export,
    "segment": segment,
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


if __name__ == "__main__":
    sys.exit(main())
