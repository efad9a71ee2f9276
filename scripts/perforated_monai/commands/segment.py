"""The command ``segment``."""

from __future__ import annotations

from .arguments import Count, Share


def segment(
    source: str,
    output: str,
    bundle: list[str],
    engine: str = "auto",
    device: str = "",
    overlap: Share | None = None,
    tta: bool = False,
    probabilities: bool = False,
    workers: Count | None = None,
    resume: bool = False,
    preview: bool = False,
    anonymous: bool = False,
    series: str = "",
    dicom_seg: bool = False,
    allow_out_of_range: bool = False,
    allow_phantom_weights: bool = False,
    report: str = "",
    trust: bool = False,
) -> int:
    """Segment a scan or a folder of them: a mask a case on its own grid, and cases.csv.

    Args:
        source: a .nii or .nii.gz file, a folder tree of them or of DICOM series, or a .csv or
            .json list of cases with several channels.
        output: folder of the masks; the input's relative paths are kept.
        bundle: bundle folder, such as bundles/hippocampus_mri_dendritic. Given several times, the
            mean of their probabilities: bundles that differ in nothing but their networks.
        engine: torch, torch-bf16, onnxruntime, openvino, openvino-bf16, or auto: on a CPU OpenVINO
            where it is installed, else ONNX Runtime for depthwise networks, else torch, as long as
            99.99 % of the first scans' labels are torch's.
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
        report: also write one HTML page of the results, to look through and review them.
        trust: run code and names of the bundle that verify refuses.
    """
    from ..bundle.folder import bundle_folder
    from ..bundle.verify.trust import INFERENCE, trusted
    from ..inference.segment import Options, Segmenter, bundle_code, segment_folder

    if report:
        from ..inference.segment.page import check_page_path

        check_page_path(str(report))

    options = Options(
        workers=workers,
        resume=resume,
        preview=preview,
        anonymous=anonymous,
        series=str(series),
        dicom_seg=dicom_seg,
    )
    for folder in bundle:
        print(trusted(bundle_folder(folder), INFERENCE, trust))
    with bundle_code(bundle[0]):
        segmenter = Segmenter(
            bundle,
            engine=engine,
            device=str(device) or None,
            overlap=overlap,
            tta=tta,
            probabilities=probabilities,
            allow_out_of_range=allow_out_of_range,
            allow_phantom_weights=allow_phantom_weights,
        )
        summary = segment_folder(str(source), str(output), segmenter, options)
    if report:
        from ..inference.segment.page import write_page

        write_page(str(output), str(report), scans=str(source), series=str(series))
        print(f"Page: {report}")
    return summary.exit_code
