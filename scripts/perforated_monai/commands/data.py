"""The commands on data: ``phantom``, ``prepare`` and ``check``."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .arguments import Cases, Count, Positive, Seed


def phantom(
    out: str, cases: Cases = 20, seed: Seed = 0, channels: Count = 1, kind: str = ""
) -> int:
    """Write a seeded data set of phantoms with labels, in MSD layout.

    Args:
        out: folder to write.
        cases: number of labelled volumes.
        seed: the same seed gives the same volumes.
        channels: 1 gives hippocampus-like volumes, 4 brain-tumour-like ones.
        kind: hippocampus, tumour, glioma or ct; the first two by default, from the channels.
    """
    from ..data.phantoms import make_phantoms
    from ..data.prepare import write_manifest
    from ..data.schema import FOLDS
    from ..data.splits import FEWEST_WITH_TEST

    kind = kind or ("hippocampus" if channels == 1 else "tumour")
    folder = make_phantoms(Path(str(out)), cases=cases, seed=seed, channels=channels, kind=kind)
    if cases < FOLDS:
        print(f"{cases} phantoms in {folder}; a manifest with its {FOLDS} folds needs more")
        return 0
    test, manifest = cases >= FEWEST_WITH_TEST, folder / "manifest.json"
    if not manifest.exists():  # the same set was there, and its split may be someone's own
        write_manifest(folder, manifest, "phantom", test=test)
    print(f"{cases} phantoms and manifest.json in {folder}")
    return 0


def prepare(
    name: str = "",
    root: str = "",
    write: str = "",
    manifest: str = "",
    download: bool = False,
    patient: str = "",
    no_test: bool = False,
    plan: str = "",
    memory: Positive | None = None,
    spacing: str = "",
) -> int:
    """Verify a data set against a manifest and print its split, or make a manifest of your own.

    With --write or --plan it also prints spacing, size and intensity of the training cases, and
    writes an overlay that suggests crop, strides and batch: plan.yaml beside the new manifest.

    Args:
        name: a manifest: hippocampus_msd, brain_tumor_msd, spleen_msd, or a file; with --write the
            name that the new manifest gets.
        root: folder of the data in MSD layout (imagesTr, labelsTr).
        write: write a new manifest of the folder into this file.
        manifest: the same as the name.
        download: fetch the manifest's archive to the folder first.
        patient: with --write, which cases are of one patient: a regular expression with a group, or
            a .csv with the columns case and patient. Patients, not volumes, are split then.
        no_test: with --write, put every case into the folds: a test set lies elsewhere.
        plan: write the suggested overlay into this .yaml file.
        memory: GiB that training will have; by default what is free now, on a GPU if there is one.
        spacing: true mm of a voxel as X,Y,Z, left-right first, where the headers do not hold it.
    """
    from ..data.manifest import load_manifest
    from ..data.prepare import describe, write_manifest
    from ..data.prepare import download as fetch
    from .check import print_findings
    from .plan import Wanted, print_plan

    if not root or not (name or manifest or write or plan):
        msg = "prepare needs --root DIR and a manifest name, or --root DIR --write FILE."
        raise UsageError(msg)
    if (patient or no_test) and not write:
        msg = "--patient and --no_test make a split, which needs --write FILE. Add it."
        raise UsageError(msg)
    if (memory is not None or spacing) and not (write or plan):
        msg = "--memory and --spacing make a plan, which needs --plan FILE.yaml. Add it."
        raise UsageError(msg)
    folder = Path(str(root))
    if write:
        file = str(plan) or str(Path(str(write)).expanduser().parent / "plan.yaml")
        asked = Wanted(file, memory, spacing)
        called = str(name) or folder.resolve().name
        made = write_manifest(folder, str(write), called, not no_test, patient)
        print(describe(made, folder))
        print_plan(folder, made, asked)
        return 0
    planned = Wanted(str(plan), memory, spacing) if plan else None
    if planned and not (name or manifest):
        print_plan(folder, None, planned)
        return 0
    wanted = load_manifest(str(manifest or name))
    if download:
        fetch(wanted, str(root))
    print(describe(wanted, str(root)))
    code = print_findings(str(root), wanted)
    if planned and code == 0:
        print_plan(folder, wanted, planned)
    return code


def check(
    target: str = "",
    manifest: str = "",
    workers: Count | None = None,
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
    return check_target(
        str(target),
        manifest=str(manifest),
        read="headers" if headers else "all",
        workers=workers or 0,
        json_file=str(json),
        report_file=str(report),
    )
