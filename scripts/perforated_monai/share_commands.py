"""The commands that hand a bundle on and judge what was handed on."""

from __future__ import annotations


def pack(bundle: str, out: str, url_base: str = "", formats: str = "") -> int:
    """Write a bundle and the package it needs into one zip that runs alone.

    Args:
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        out: the zip to write; the same bundle gives the same bytes.
        url_base: address of files above 25 MB; they are left out and named in large_files.yml.
        formats: of ts, pt2, onnx, with commas: other forms of the network to pack beside model.pt.
    """
    from .formats import as_list
    from .pack import pack_bundle

    packed = pack_bundle(str(bundle), str(out), str(url_base), as_list(formats))
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
    from .verify.command import verify_target

    return verify_target(str(target), bool(trust))


def card(bundle: str, evaluation: str = "") -> int:
    """Write docs/MODEL_CARD.md of a bundle from the files that measured something.

    Args:
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic.
        evaluation: output_dir of an evaluate.json; its cases.csv is copied into docs first.
    """
    from .card import write_card

    print(write_card(str(bundle), str(evaluation) or None))
    return 0
