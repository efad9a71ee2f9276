"""The commands that hand a bundle on, judge what was handed on, and say what it costs."""

from __future__ import annotations

import re

from .arguments import Rounds


def pack(bundle: str, out: str, url_base: str = "", formats: str = "", cases: bool = False) -> int:
    """Write a bundle and the package it needs into one zip that runs alone.

    Args:
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        out: the zip to write; the same bundle gives the same bytes.
        url_base: address of files above 25 MB; they are left out and named in large_files.yml.
        formats: of ts, pt2, onnx, with commas: other forms of the network to pack beside model.pt.
        cases: also pack docs/cases.csv, whose names of cases may be patients'.
    """
    from ..bundle.folder import bundle_folder
    from ..bundle.pack import pack_bundle
    from ..inference.formats import as_list

    root = bundle_folder(str(bundle))
    packed = pack_bundle(root, str(out), str(url_base), as_list(formats), cases)
    for note in packed.notes:
        print(note)
    size = f"{packed.size / 1e6:.1f} MB"
    print(f"{packed.file}: {packed.files} files, {size}, sha256 {packed.sha256}")
    return 0


def verify(target: str, trust: bool = False) -> int:
    """Judge a packed or foreign bundle without running anything of it; exit 1 when it is refused.

    Args:
        target: a zip, or the folder of a bundle.
        trust: go on with code and names outside the allow-list; they are shown all the same.
    """
    from .verify import verify_target

    return verify_target(str(target), bool(trust))


def card(bundle: str, evaluation: str = "") -> int:
    """Write docs/MODEL_CARD.md of a bundle from the files that measured something.

    Args:
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        evaluation: output_dir of an evaluate.json; its cases.csv is copied into docs first.
    """
    from ..bundle.card import write_card
    from ..bundle.folder import bundle_folder

    print(write_card(bundle_folder(str(bundle)), str(evaluation) or None))
    return 0


def efficiency(
    *networks: str, out: str, window: str = "", claims: str = "", rounds: Rounds = 7
) -> int:
    """Measure bundles and runs side by side: size, FLOPs, time, memory, energy, Dice, Pareto front.

    Args:
        networks: each a bundle or run folder, or NAME=FOLDER.
        out: folder for efficiency.md, efficiency.json and efficiency.png.
        window: voxels of the input, such as 40,56,40; by default the first network's window.
        claims: YAML file of claims to put beside the measurements.
        rounds: timed calls of each network, at least 2.
    """
    from ..errors import UsageError
    from ..inference.formats import as_list
    from ..study.efficiency import write_efficiency

    sizes = as_list(window.strip("()[] "))
    if not all(re.fullmatch("[0-9]{1,9}", v) and int(v) > 0 for v in sizes):
        msg = f"--window must be whole numbers of voxels such as 40,56,40; got {window!r}."
        raise UsageError(msg)
    voxels = [int(v) for v in sizes]
    print(write_efficiency([str(n) for n in networks], str(out), voxels, str(claims), rounds))
    return 0
