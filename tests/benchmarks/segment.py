"""Figures of ``segment``: speed against ``monai.bundle run``, memory, and a soak of small volumes.

    python tests/benchmarks/segment.py speed BUNDLE SCANS [--cases 52] [--rounds 3] [--engines ...]
    python tests/benchmarks/segment.py memory [--size 512 512 600] [--network small] [--batch 2]
    python tests/benchmarks/segment.py soak BUNDLE [--cases 1000]

Every measurement runs in a process of its own and prints one JSON line. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 0}
COMPRESSED = {"channels": (24, 40, 80, 160), "strides": (2, 2, 2), "num_res_units": 2}
NETWORKS = {"small": SMALL, "compressed": COMPRESSED}
ROI, OVERLAP, CLASSES = (96, 96, 96), 0.25, 3


def speed(bundle: Path, scans: Path, cases: int, rounds: int, engines: list[str]) -> None:
    """Cases per second of both commands on the same files, in turns.

    Once with start-up (imports, loading the network) and once without: a run of two cases is
    taken off. Where there are fewer scans than cases, they come again under other names.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = sorted(scans.glob("*.nii.gz"))
        for part, count in (("two", 2), ("all", cases)):
            (folder / part).mkdir()
            for k in range(count):
                link = folder / part / f"{k // len(files)}_{files[k % len(files)].name}"
                link.symlink_to(files[k % len(files)].resolve())
        theirs = "monai.bundle run"
        seconds: dict[str, dict[str, list[float]]] = {
            label: {"two": [], "all": []} for label in (theirs, *engines)
        }
        cpu: dict[str, list[float]] = {label: [] for label in seconds}
        for part in ["two", "all"] * rounds:
            for label in seconds:
                command = _command(label, bundle, folder / part, folder / f"{label} {part}")
                start, used = time.perf_counter(), _children_cpu()
                subprocess.run(command, check=True, capture_output=True)
                seconds[label][part].append(round(time.perf_counter() - start, 2))
                if part == "all":
                    cpu[label].append(round(_children_cpu() - used, 2))
        median = {k: {p: statistics.median(v) for p, v in s.items()} for k, s in seconds.items()}
        each = {k: (m["all"] - m["two"]) / (cases - 2) for k, m in median.items()}
        for label in seconds:
            _say(
                label=label,
                cases=cases,
                seconds=seconds[label],
                cpu_seconds=cpu[label],
                cases_per_second=round(cases / median[label]["all"], 2),
                ratio=round(median[theirs]["all"] / median[label]["all"], 2),
                ms_a_case_after_start=round(1000 * each[label], 1),
                ratio_after_start=round(each[theirs] / each[label], 2),
                **_agreement(folder / f"{label} all", folder / f"{theirs} all"),
            )


def _command(label: str, bundle: Path, scans: Path, output: Path) -> list[str]:
    if label == "monai.bundle run":
        command = [*_python("monai.bundle"), "run", "--config_file"]
        command += [bundle / "configs" / "inference.json", "--bundle_root", bundle]
        command += ["--dataset_dir", scans, "--output_dir", output]
    else:
        command = [*_python("perforated_monai"), "segment", scans, output]
        command += ["--bundle", bundle, "--device", "cpu", "--engine", label]
    return [str(c) for c in command]


def _agreement(one: Path, other: Path) -> dict[str, object]:
    """Masks that are identical, and the share of equal labels over all voxels."""
    import nibabel as nib
    import numpy as np

    masks = sorted(other.glob("*.nii.gz"))
    same = equal = voxels = 0
    for mask in masks:
        a, b = (np.asarray(nib.load(folder / mask.name).dataobj) for folder in (one, other))
        same += np.array_equal(a, b)
        equal += int((a == b).sum())
        voxels += a.size
    return {"identical": f"{same} of {len(masks)}", "equal_labels": round(equal / voxels, 6)}


def memory(size: tuple[int, int, int], network: str, batch: int, both: bool) -> None:
    """Peak RSS above input and mask, wall time, and equal labels, ours against MONAI's."""
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for who in ("ours", "monai") if both else ("ours",):
            command = [sys.executable, __file__, "_window", who, network, str(batch), name]
            done = subprocess.run(
                [*command, *map(str, size)], check=True, capture_output=True, text=True
            )
            found[who] = json.loads(done.stdout.splitlines()[-1])
        different = None
        if both:
            import numpy as np

            a, b = (np.load(Path(name) / f"{who}.npy", mmap_mode="r") for who in found)
            different = int(sum(np.count_nonzero(x != y) for x, y in zip(a, b, strict=True)))
        _say(size=size, network=network, batch=batch, different_labels=different, **found)


def _window(who: str, network: str, batch: int, folder: Path, size: tuple[int, ...]) -> None:
    import numpy as np
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import UNet
    from monai.transforms import AsDiscreted, Compose

    from perforated_monai.inference.segment.reduce import Reducer
    from perforated_monai.inference.segment.window import Windows, stitch_windows

    torch.manual_seed(0)
    net = UNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, **NETWORKS[network]).eval()
    volume = torch.randn((1, 1, *size), generator=torch.Generator().manual_seed(1))
    labels = np.ones(size, np.uint8)  # touched, so that the baseline has it
    _reset_peak()
    before = _status("VmRSS")
    start, used = time.perf_counter(), time.process_time()
    with torch.no_grad():
        if who == "ours":
            discretise = Compose([AsDiscreted("pred", argmax=True)])
            reducer = Reducer(size, discretise, CLASSES)
            reducer.labels = labels[None]
            stitch_windows(volume, net, reducer, Windows(ROI, batch, OVERLAP, "gaussian"))
        else:
            logits = SlidingWindowInferer(ROI, batch, OVERLAP, "gaussian")(volume, net)
            labels[:] = logits[0].argmax(0).numpy()
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    np.save(folder / f"{who}.npy", labels)
    _say(
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu, 1),
        gib_above=round((_status("VmHWM") - before) / 2**20, 3),
    )


def soak(bundle: Path, cases: int) -> None:
    """RSS after every hundred small volumes, and its slope over the second half and on."""
    import numpy as np

    from perforated_monai.data.phantoms import make_phantoms
    from perforated_monai.inference.segment import Options, Segmenter, segment_folder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantoms = make_phantoms(folder / "data", cases=20, seed=0)
        files = sorted((phantoms / "imagesTr").glob("*.nii.gz"))
        segmenter = Segmenter(bundle, device="cpu")
        rss = []
        for k in range(0, cases, 100):
            (folder / f"in{k}").mkdir()
            for i in range(100):
                scan = folder / f"in{k}" / f"{i:03d}.nii.gz"
                scan.symlink_to(files[i % len(files)].resolve())
            options = Options(progress=False)
            done = segment_folder(folder / f"in{k}", folder / f"out{k}", segmenter, options)
            assert done.exit_code == 0
            rss.append(_status("VmRSS") / 1024)
        slope = float(np.polyfit(range(len(rss) - 2), rss[2:], 1)[0]) if len(rss) > 3 else None
        _say(cases=cases, rss_mib=[round(r, 1) for r in rss], slope_mib_per_100=slope)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("speed")
    one.add_argument("bundle", type=Path)
    one.add_argument("scans", type=Path)
    one.add_argument("--cases", type=int, default=52)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--engines", nargs="+", default=["torch"])
    two = commands.add_parser("memory")
    two.add_argument("--size", type=int, nargs=3, default=(512, 512, 600))
    two.add_argument("--network", choices=NETWORKS, default="small")
    two.add_argument("--batch", type=int, default=2)
    two.add_argument("--ours-only", action="store_true")
    three = commands.add_parser("soak")
    three.add_argument("bundle", type=Path)
    three.add_argument("--cases", type=int, default=1000)
    given = parser.parse_args()
    if given.command == "speed":
        speed(given.bundle.resolve(), given.scans, given.cases, given.rounds, given.engines)
    elif given.command == "memory":
        memory(tuple(given.size), given.network, given.batch, not given.ours_only)
    else:
        soak(given.bundle, given.cases)


if __name__ == "__main__":
    if sys.argv[1:2] == ["_window"]:
        who, network, batch, folder, *size = sys.argv[2:]
        _window(who, network, int(batch), Path(folder), tuple(map(int, size)))
    else:
        _main()
