"""``check_dataset``: read every volume of a dataset once and run every rule on it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from ...errors import UserError
from ...rules import ERROR, Finding, Rule, run, worst_first
from ..layout import case_ids, dataset_root, listed_files, present
from ..manifest import Manifest
from ..splits import describe_folder, resolve
from . import dataset_rules as dataset
from . import header_rules as header
from . import voxel_rules as voxel
from .facts import Facts
from .volume import Volume, read_volume

READ = ("headers", "labels", "all")

# The rules of each kind of subject. A rule that is not named here is not run.
VOLUME_RULES: tuple[Rule, ...] = (
    header.inside,
    header.readable,
    header.ending,
    header.nifti,
    header.whole,
    header.datatype,
    header.voxel_budget,
    header.dimensions,
    header.affine,
    header.origin,
    header.shear,
    header.unit,
    header.spacing,
    header.sform_qform,
    header.orientation,
    header.scaling,
    voxel.finite,
    voxel.trailing,
)
IMAGE_RULES: tuple[Rule, ...] = (header.channels, voxel.constant, voxel.extreme)
LABEL_RULES: tuple[Rule, ...] = (voxel.label_integer, voxel.label_values, voxel.label_empty)
PAIR_RULES: tuple[Rule, ...] = (dataset.pair_shape, dataset.pair_affine)
DATASET_RULES: tuple[Rule, ...] = (
    dataset.unpaired,
    dataset.missing,
    dataset.test_absent,
    dataset.extra,
    dataset.checksum,
    dataset.packing,
    dataset.leak,
    dataset.patient_leak,
    dataset.duplicate,
    dataset.spacing_outlier,
    dataset.size_outlier,
)


@dataclass
class Audit:
    """The result of `check_dataset`.

    Attributes:
        root: dataset folder.
        manifest: what it was compared with.
        findings: worst first.
        pairs: id -> image and label, where both are there.
    """

    root: Path
    manifest: Manifest
    findings: list[Finding]
    pairs: dict[str, tuple[Volume, Volume]]

    def errors(self) -> list[str]:
        """One line for each error, with the complete path."""
        return [finding.text(self.root) for finding in self.findings if finding.severity == ERROR]


def check_dataset(
    folder: str | Path,
    manifest: Manifest | str | Path | None = None,
    *,
    cases: list[str] | None = None,
    read: str = "all",
    workers: int | None = None,
    pictures: Collection[str] | int = 0,
    progress: bool = False,
) -> Audit:
    """List everything that is wrong with a dataset in MSD layout.

    Args:
        folder: dataset folder.
        manifest: name, path or object; None takes `manifest.json` of the folder or, without one,
            what the folder's `dataset.json` declares, without a split.
        cases: ids to check; None is all, without a test part that is absent as a whole.
        read: "headers" reads the first 540 bytes of each file, "labels" also labels to their end,
            "all" every file.
        workers: threads; None is one a core, up to 8.
        pictures: number of cases whose middle slices are kept.
        progress: show a bar on a terminal.

    Raises:
        UserError: a folder that is missing, empty or without volumes, an unreadable manifest, or
            no sensible number of workers.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        msg = f"workers must be a whole number of 1 or more; got {workers!r}. Leave it out."
        raise UserError(msg)
    root = dataset_root(folder)
    manifest = _manifest(root, manifest)
    listed = listed_files(root, manifest.layout)
    if cases is None:
        apart = set() if any(present(root, manifest, manifest.test)) else set(manifest.test)
        cases = sorted(set(manifest.cases) - apart)
    facts = Facts(root, manifest, listed, cases)
    paired = [case for case in cases if listed.issuperset(manifest.files(case))]
    if isinstance(pictures, int):
        pictures = set(paired[:: max(1, -(-len(paired) // pictures))] if pictures else [])
    findings = list(_check_pairs(facts, paired, read, workers, pictures, progress))
    findings += run(DATASET_RULES, "", facts, voxels=read == "all")
    return Audit(root, manifest, worst_first(findings), facts.pairs)


def check_volume(file: str | Path, channels: int | None = None) -> list[Finding]:
    """Broken rules of one image, from its header alone: before it is loaded, in milliseconds.

    Args:
        file: a `.nii` or `.nii.gz` file.
        channels: how many it must have; None accepts any number.
    """
    path = Path(file).expanduser().resolve()
    names = [str(k) for k in range(channels or 0)]
    facts = Facts(path.parent, _unnamed(names), {path.name}, [])
    volume = read_volume(path.parent, path.name, voxels=False)
    rules = VOLUME_RULES + IMAGE_RULES
    return worst_first(run(rules, path.name, volume, facts, voxels=False))


def _check_pairs(
    facts: Facts,
    cases: list[str],
    read: str,
    workers: int | None,
    pictures: Collection[str],
    progress: bool,
) -> Iterator[Finding]:
    if read not in READ:
        msg = f"read must be one of {', '.join(READ)}; got {read!r}."
        raise ValueError(msg)

    def read_pair(case: str) -> tuple[Volume, Volume]:
        image, label = facts.manifest.files(case)
        picture = case in pictures
        return (
            read_volume(facts.root, image, False, read == "all", picture),
            read_volume(facts.root, label, True, read != "headers", picture),
        )

    workers = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # zlib, hashing and numpy let other threads run
        pairs: Iterable[tuple[Volume, Volume]] = pool.map(read_pair, cases)
        bar = tqdm(pairs, "cases", len(cases), leave=False, disable=None if progress else True)
        for case, pair in zip(cases, bar, strict=True):
            facts.pairs[case] = pair
            for volume, rules in zip(pair, (IMAGE_RULES, LABEL_RULES), strict=True):
                voxels = read == "all" or (read == "labels" and volume.is_label)
                yield from run(VOLUME_RULES + rules, volume.file, volume, facts, voxels=voxels)
            if all(volume.header is not None for volume in pair):
                yield from run(PAIR_RULES, pair[1].file, *pair, facts)


def _manifest(root: Path, manifest: Manifest | str | Path | None) -> Manifest:
    if manifest is not None:
        return resolve(manifest, root)
    if (root / "manifest.json").is_file():
        return resolve(root / "manifest.json", root)
    described = describe_folder(root, root.name)
    layout = described.layout
    if (root / "labelsTs").is_dir():
        layout = replace(layout, test_image_dir="imagesTs", test_label_dir="labelsTs")
    test = case_ids(root, "labelsTs")
    cases = sorted({*case_ids(root, layout.image_dir, layout.label_dir), *test})
    if not cases:
        msg = f"{root} must hold volumes in imagesTr and labelsTr; found none. Correct the folder."
        raise UserError(msg)
    return replace(described, layout=layout, cases=dict.fromkeys(cases), test=test)


def _unnamed(channel_names: list[str]) -> Manifest:
    return Manifest("", "", "", "", None, None, "", channel_names, {}, None)
