"""``prepare``: fetch a dataset, describe its split, write a manifest of your own data."""

from __future__ import annotations

import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import refuse_foreign, write_text
from .check.check import Audit, check_dataset
from .layout import dataset_root, present
from .manifest import Checksums, Manifest, refuse, to_text
from .patients import Patients
from .schema import PACKED
from .splits import describe_folder, resolve, split_folder

_MOST = 0.9  # share of cases that must agree on a spacing before the others count as outliers


def write_manifest(
    root: str | Path, out: str | Path, name: str, test: bool = True, patient: str = ""
) -> Manifest:
    """Make the manifest of a folder in MSD layout and write it to `out`, whole or not at all.

    The split follows `splits.split_folder`; `patient` says which cases are of one patient, see
    `patients.Patients`, and none makes each case a patient of its own. Channels, labels, licence
    and citation come from the folder's `dataset.json`, when it has one.

    Raises:
        UserError: everything that `check` calls an error; mixed file endings; a file at `out` that
            is no manifest; fewer than 10 labelled cases or patients to take a test part from, or
            fewer than 5 for the folds; patients that `patient` does not tell.
    """
    base = dataset_root(root)
    refuse_foreign(out, "manifest", ['"schema_version"'])
    patients = Patients(patient) if patient else None
    manifest = split_folder(base, describe_folder(base, name), test, patients)
    audit = check_dataset(base, manifest)
    refuse(audit.errors())
    manifest = replace(manifest, cases=_checksums(audit), **_measured(audit))
    refuse(check_dataset(base, manifest, read="headers").errors())  # now that channels are known
    write_text(Path(out).expanduser(), to_text(manifest.to_dict()))
    return manifest


def describe(manifest: Manifest | str | Path, dataset_dir: str | Path) -> str:
    """A small table of the split: cases of each part in the manifest and in the folder."""
    root = dataset_root(dataset_dir)
    manifest = resolve(manifest, root)
    labels = ", ".join(f"{value} {name}" for value, name in manifest.label_names.items())
    lines = [
        f"{manifest.name} {manifest.version}: {manifest.modality}, licence {manifest.licence}",
        f"channels: {', '.join(manifest.channel_names)}; labels: {labels}",
        f"{'part':<8}{'cases':>8}{'in folder':>11}" + ("  patients" if manifest.patients else ""),
    ]
    parts = {f"fold {fold}": ids for fold, ids in enumerate(manifest.folds)}
    for part, ids in (parts | {"test": manifest.test, "all": sorted(manifest.cases)}).items():
        there = sum(present(root, manifest, ids))
        apart = "  kept apart" if part == "test" and ids and not there else ""
        who = len({manifest.patients[case] for case in ids}) if manifest.patients else 0
        shown = f"{who:>10}" if manifest.patients else ""
        lines.append(f"{part:<8}{len(ids):>8}{there:>11}{shown}{apart}")
    lines.append("Training leaves one fold out, for validation: fold 0 unless told otherwise.")
    return "\n".join([*lines, f"manifest sha256 {manifest.hash()}"])


def download(manifest: Manifest, root: str | Path) -> Path:
    """Fetch the manifest's archive with MONAI's own downloader and unpack it as `root`.

    The md5 is compared before anything is unpacked; `root` appears when all of it is there.

    Raises:
        UserError: a folder that holds something already, a manifest without an address or md5, a
            failed or damaged download, or an archive that is no folder.
    """
    root = Path(root).expanduser()
    if root.exists() and any(root.iterdir()):
        msg = f"{root} must be new or empty for a download. Leave out --download or choose another."
        raise UserError(msg)
    url, md5 = manifest.source_url, manifest.archive_md5
    if not url or not md5:
        msg = f"manifest {manifest.name} names no archive with its md5. Fetch the data by hand."
        raise UserError(msg)
    from monai.apps import download_url, extractall

    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
            archive = Path(staging) / Path(url).name
            unpacked = Path(staging) / "unpacked"
            download_url(url, archive, hash_val=md5, hash_type="md5")
            extractall(archive, unpacked, hash_val=md5, hash_type="md5")
            (folder,) = [p for p in unpacked.iterdir() if not p.name.startswith(".")]
            folder.replace(root)
    except (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{url} could not be fetched to {root}: {reason}. Nothing was kept; try again."
        raise UserError(msg) from error
    return root


def _checksums(audit: Audit) -> dict[str, Checksums | None]:
    sums: dict[str, Checksums | None] = {}
    for case, (image, label) in audit.pairs.items():
        assert (
            image.content is not None and label.content is not None
        )  # else check would have refused it
        sums[case] = {
            "image": image.content.sha256,
            "label": label.content.sha256,
            PACKED["image"]: image.content.crc32,
            PACKED["label"]: label.content.crc32,
        }
    return sums


def _measured(audit: Audit) -> dict[str, Any]:
    """Median spacing where most cases agree, and channels and labels that are not declared."""
    manifest = audit.manifest
    images = [pair[0] for pair in audit.pairs.values()]
    spacing = np.array([image.spacing for image in images])
    median = np.median(spacing, axis=0)
    alike = bool((np.quantile(np.abs(spacing / median - 1), _MOST, axis=0) < 0.01).all())
    return {
        "spacing_mm": [round(float(mm), 4) for mm in median] if alike else None,
        "channel_names": manifest.channel_names
        or [f"channel {k}" for k in range(images[0].channels)],
        "label_names": manifest.label_names or _label_names(audit),
    }


def _label_names(audit: Audit) -> dict[int, str]:
    values = {0}
    for _, label in audit.pairs.values():
        assert label.content is not None
        values.update(int(value) for value in label.content.values)
    return {value: f"label {value}" if value else "background" for value in sorted(values)}
