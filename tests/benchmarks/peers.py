"""`segment` beside what else one would take for Task04: nnU-Net v2's predictor and MONAI's.

    python tests/benchmarks/peers.py make FOLDER                            # its environment
    python tests/benchmarks/peers.py run FOLDER BUNDLE SCANS [--cases 6] [--many 102] [--rounds 3]

Every tool runs from one environment, in turns, on the same volumes and threads (OMP_NUM_THREADS).
A run of two volumes is taken off, so that the start does not count; for what takes a tenth of a
second a volume, there must be many for that. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from commands_timed import Cost, link_scans, segmenting, timed

REPO = Path(__file__).resolve().parents[2]
# nnunetv2 asks for another build of torch, and openvino for its telemetry: both come without their
# requirements, which follow by name. timm, of networks that are not used here, needs torchvision.
ALONE = (
    *("nnunetv2==2.8.1", "dynamic-network-architectures==0.4.4", "acvl-utils==0.2.6"),
    *("batchgenerators==0.25.5", "batchgeneratorsv2==0.3.6", "openvino"),
)
BESIDE = (
    *("scikit-learn", "scikit-image", "SimpleITK", "pandas", "graphviz", "tifffile", "requests"),
    *("matplotlib", "seaborn", "imagecodecs", "yacs", "einops", "blosc2", "future"),
    *("connected-components-3d", "threadpoolctl"),
)
RUNTIMES = ("onnx", "onnxscript", "onnxruntime")

MONAI = "monai.bundle run"
ENGINES = ("torch", "onnxruntime", "openvino")
NNUNET = {"nnU-Net v2": [], "nnU-Net v2, no mirroring": ["--no-mirroring"]}
# Distributions whose files, with those of what they require, are the installation of a tool.
INSTALLED = {
    **dict.fromkeys(NNUNET, ("nnunetv2",)),
    MONAI: ("monai", "nibabel", "pytorch-ignite", "fire", "pyyaml"),
    "torch": ("perforated-monai",),
    "onnxruntime": ("perforated-monai", *RUNTIMES),
    "openvino": ("perforated-monai", "openvino"),
}


def make(folder: Path) -> None:
    """The environment: this checkout, its engines, and nnU-Net beside the same torch."""
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    constraints = ["-c", REPO / "constraints.txt"]
    for packages in (
        ["torch", "setuptools"],  # first: nothing later replaces it
        ["--no-build-isolation", "-e", REPO, *RUNTIMES],
        ["--no-deps", *ALONE],
        list(BESIDE),
    ):
        pip = [_python(folder), "-m", "pip", "install", "--quiet", *constraints, *packages]
        subprocess.run([str(word) for word in pip], check=True)


def run(folder: Path, bundle: Path, scans: Path, cases: int, many: int, rounds: int) -> None:
    """Measure in turns, and print the table: nnU-Net on ``cases`` volumes, others on ``many``."""
    python = _python(folder)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        inputs = {k: link_scans(scans, place / f"in{k}", k) for k in {2, cases, many}}
        labels = (*NNUNET, MONAI, *ENGINES)
        counts = {label: cases if label in NNUNET else many for label in labels}
        program = Path(__file__).with_name("peers_nnunet.py")
        facts = {
            "nnunet": _asked(python, program, inputs[cases], place, "--facts"),
            "ours": _asked(python, __file__, "_facts", bundle, inputs[cases]),
        }
        sizes = [_asked(python, __file__, "_sizes", *INSTALLED[label]) for label in labels]
        costs: dict[tuple[str, int], list[Cost]] = {
            (label, k): [] for label in labels for k in (2, counts[label])
        }
        for turn in range(rounds):
            for label, count in costs:
                output = place / f"out {turn} {label} {count}"
                command = _command(label, python, bundle, inputs[count], output)
                costs[label, count].append(timed(command))
    theirs = _each(costs, MONAI, many)
    head = ("tool", "parameters", "GFLOP a volume", "CPU s a volume", "s a volume", "speed")
    print(f"| {' | '.join((*head, 'peak MiB', 'installed MB', 'volumes'))} |\n{'|---' * 9}|")
    for label, size in zip(labels, sizes, strict=True):
        fact = facts["nnunet" if label in NNUNET else "ours"]
        passes = 8 if label == "nnU-Net v2" else 1
        cpu, wall = _each(costs, label, counts[label])
        peak = max(cost.peak_mib for cost in costs[label, counts[label]])
        print(
            f"| {label} | {fact['parameters']:,} | {fact['gflop'] * fact['windows'] * passes:.2f} "
            f"| {cpu:.3f} | {wall:.3f} | {theirs[0] / cpu:.2f} | {peak:.0f} | {size / 1e6:.0f} "
            f"| {counts[label]} |"
        )


def _command(label: str, python: Path, bundle: Path, scans: Path, output: Path) -> list[object]:
    if label in NNUNET:
        program = Path(__file__).with_name("peers_nnunet.py")
        return [python, program, scans, output, *NNUNET[label]]
    return segmenting(label, bundle, scans, output, python)


def _each(costs: dict[tuple[str, int], list[Cost]], label: str, cases: int) -> tuple[float, float]:
    """CPU seconds and seconds of a volume: medians of all, less those of two."""
    both = (costs[label, cases], costs[label, 2])
    cpu = [statistics.median(cost.cpu for cost in part) for part in both]
    wall = [statistics.median(cost.wall for cost in part) for part in both]
    return (cpu[0] - cpu[1]) / (cases - 2), (wall[0] - wall[1]) / (cases - 2)


def _facts(folder: str, scans: str) -> dict[str, float]:
    """Of a bundle's network: parameters, GFLOP of a window, windows of a volume on the average."""
    import nibabel as nib
    import torch
    from monai.data.utils import dense_patch_slices

    from perforated_monai.inference.segment.load import load_bundle
    from perforated_monai.networks.cost import count_flops

    bundle = load_bundle(folder)
    roi, overlap = bundle.inferer.roi_size, float(bundle.inferer.overlap)
    counts = []
    for file in Path(scans).glob("*.nii.gz"):
        size = [max(s, r) for s, r in zip(nib.load(file).shape, roi, strict=True)]
        steps = [r if r == s else int(r * (1 - overlap)) for s, r in zip(size, roi, strict=True)]
        counts.append(len(dense_patch_slices(size, roi, steps)))
    return {
        "parameters": sum(p.numel() for p in bundle.network.parameters()),
        "gflop": count_flops(bundle.network, torch.zeros((1, bundle.channels, *roi))) / 1e9,
        "windows": sum(counts) / len(counts),
    }


def _sizes(*names: str) -> int:
    """Bytes of distributions and of what they require, as far as it is installed."""
    done: dict[str, int] = {}
    todo = list(names)
    while todo:
        name = re.split(r"[ ;<>=!~\[(]", todo.pop())[0].lower().replace("_", "-")
        with contextlib.suppress(PackageNotFoundError):
            if name not in done:
                found = distribution(name)
                places = [Path(str(file.locate())) for file in found.files or []]
                done[name] = sum(place.stat().st_size for place in places if place.is_file())
                todo += [word for word in found.requires or [] if "extra ==" not in word]
    return sum(done.values())


def _asked(*command: object):
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _python(folder: Path) -> Path:
    return folder.absolute() / "env" / "bin" / "python"


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("folder", type=Path)
    two = commands.add_parser("run")
    two.add_argument("folder", type=Path)
    two.add_argument("bundle", type=Path)
    two.add_argument("scans", type=Path)
    two.add_argument("--cases", type=int, default=6)
    two.add_argument("--many", type=int, default=102)
    two.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder)
    else:
        counts = (given.cases, given.many, given.rounds)
        run(given.folder, given.bundle.resolve(), given.scans, *counts)


if __name__ == "__main__":
    if sys.argv[1:2] in (["_facts"], ["_sizes"]):
        asked = _facts if sys.argv[1] == "_facts" else _sizes
        print(json.dumps(asked(*sys.argv[2:])))
    else:
        _main()
