"""Figures of ``segment``: speed against ``monai.bundle run``, memory, and a soak of small volumes.

    python tests/benchmarks/segment.py speed BUNDLE SCANS [--cases 52] [--rounds 3] [--engines ...]
    python tests/benchmarks/segment.py memory [--size 512 512 600] [--network small] [--batch 2]
                                              [--engine torch]
    python tests/benchmarks/segment.py start BUNDLE SCANS [--rounds 3]
    python tests/benchmarks/segment.py engines BUNDLE [--rounds 5]
    python tests/benchmarks/segment.py soak BUNDLE [--cases 1000]

Every measurement runs in a process of its own and prints one JSON line. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands_timed import Cost, link_scans, segmenting, timed

SMALL = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 0}
COMPRESSED = {"channels": (24, 40, 80, 160), "strides": (2, 2, 2), "num_res_units": 2}
# Of the zoo's spleen_ct_segmentation, which has two classes.
SPLEEN = {
    "channels": (16, 32, 64, 128, 256),
    "strides": (2, 2, 2, 2),
    "num_res_units": 2,
    "norm": "batch",
}
NETWORKS = {"small": SMALL, "compressed": COMPRESSED, "spleen": SPLEEN}
ROI, OVERLAP, CLASSES = (96, 96, 96), 0.25, 3


THEIRS = "monai.bundle run"


def speed(bundle: Path, scans: Path, cases: int, rounds: int, engines: list[str]) -> None:
    """Cases per second of both commands on the same files, in turns.

    Once with start-up (imports, loading the network) and once without: a run of two cases is
    taken off. Ratios are of seconds on the wall, and of CPU seconds, for others may use the cores.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {k: link_scans(scans, folder / f"in{k}", k) for k in (2, cases)}
        labels = (THEIRS, *engines)
        costs: dict[tuple[str, int], list[Cost]] = {(n, k): [] for k in inputs for n in labels}
        for _ in range(rounds):
            for label, count in costs:
                output = folder / f"{label} {count}"
                costs[label, count].append(timed(segmenting(label, bundle, inputs[count], output)))
        for label in labels:
            figures = {}
            for clock in ("wall", "cpu"):
                (two, every), (two_0, every_0) = (
                    [
                        statistics.median(getattr(cost, clock) for cost in costs[name, count])
                        for count in (2, cases)
                    ]
                    for name in (label, THEIRS)
                )
                figures[clock] = {
                    "seconds": [round(two, 2), round(every, 2)],
                    "ratio": round(every_0 / every, 2),
                    "ms_a_case_after_start": round(1000 * (every - two) / (cases - 2), 1),
                    "ratio_after_start": round((every_0 - two_0) / (every - two), 2),
                }
            peak = max(cost.peak_mib for cost in costs[label, cases])
            same = _agreement(folder / f"{label} {cases}", folder / f"{THEIRS} {cases}")
            _say(label=label, cases=cases, rounds=rounds, **figures, peak_mib=round(peak), **same)


def start(bundle: Path, scans: Path, rounds: int) -> None:
    """Seconds of ``segment`` with one volume beside ``import monai``, and of ``--help``."""
    with tempfile.TemporaryDirectory() as name:
        one = link_scans(scans, Path(name) / "in", 1)
        commands: dict[str, list[object]] = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import monai": [sys.executable, "-c", "import monai"],
            "its imports": [sys.executable, "-c", "import perforated_monai.inference.segment"],
        }
        for label in (THEIRS, "torch", "auto"):
            commands[label] = segmenting(label, bundle, one, Path(name) / label)
        costs: dict[str, list[Cost]] = {label: [] for label in commands}
        for _ in range(rounds):
            for label, command in commands.items():
                costs[label].append(timed(command))
        for label, taken in costs.items():
            wall, cpu = ([round(getattr(c, k), 2) for c in taken] for k in ("wall", "cpu"))
            _say(label=label, wall=wall, cpu=cpu, median_cpu=statistics.median(cpu))


def engines(bundle: Path, rounds: int) -> None:
    """CPU milliseconds of a window by each engine that ``auto`` knows, four windows at a time."""
    import torch
    from monai.networks.nets import UNet

    from perforated_monai.inference.by_rule import LOADERS, candidates
    from perforated_monai.inference.engines import missing_for
    from perforated_monai.inference.formats import Source
    from perforated_monai.inference.quiet import without_warnings
    from perforated_monai.inference.segment.load import load_bundle

    loaded = load_bundle(bundle)
    shapes = {bundle.name: (loaded.channels, *loaded.inferer.roi_size)}
    networks = {bundle.name: loaded.network}
    for name, shape in (("compressed", (1, 32, 48, 32)), ("spleen", (1, *ROI))):
        torch.manual_seed(0)
        net = UNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, **NETWORKS[name])
        networks[name], shapes[name] = net.eval(), shape
    for name, net in networks.items():
        source = Source(bundle, net, shapes[name], fixed_size=False)
        x = torch.randn((4, *shapes[name]), generator=torch.Generator().manual_seed(0))
        runs, took = {"torch": net}, {}
        with without_warnings(), torch.no_grad():
            for engine in (e for e in LOADERS if not missing_for(e)):
                start = time.process_time()
                runs[engine] = LOADERS[engine](source)
                runs[engine](x)
                took[engine] = round(time.process_time() - start, 2)
            best = dict.fromkeys(runs, float("inf"))
            for _ in range(rounds):
                for engine, run in runs.items():
                    start = time.process_time()
                    run(x)
                    best[engine] = min(best[engine], (time.process_time() - start) * 250)
        _say(
            network=name,
            rule=candidates(net, "cpu", one_size=True),
            cpu_ms_a_window={engine: round(ms, 1) for engine, ms in best.items()},
            cpu_seconds_until_the_first=took,
        )


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


def memory(size: tuple[int, int, int], network: str, batch: int, engine: str, both: bool) -> None:
    """Peak RSS above input and mask, time, and equal labels, ours against MONAI's."""
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for who in ("ours", "monai") if both else ("ours",):
            command = [sys.executable, __file__, "_window", who, network, str(batch), engine, name]
            done = subprocess.run(
                [*command, *map(str, size)], check=True, capture_output=True, text=True
            )
            found[who] = json.loads(done.stdout.splitlines()[-1])
        different = None
        if both:
            import numpy as np

            a, b = (np.load(Path(name) / f"{who}.npy", mmap_mode="r") for who in found)
            different = int(sum(np.count_nonzero(x != y) for x, y in zip(a, b, strict=True)))
        _say(size=size, network=network, batch=batch, engine=engine, different=different, **found)


def _window(
    who: str, network: str, batch: int, engine: str, folder: Path, size: tuple[int, ...]
) -> None:
    import numpy as np
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import UNet
    from monai.transforms import AsDiscreted, Compose

    from perforated_monai.inference.engines import load_engines
    from perforated_monai.inference.formats import Source
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
            source = Source(folder, net, (1, *ROI), fixed_size=False)
            run = load_engines(source, [engine], required=True)[engine]
            stitch_windows(volume, run, reducer, Windows(ROI, batch, OVERLAP, "gaussian"))
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
    two.add_argument("--engine", default="torch")
    two.add_argument("--ours-only", action="store_true")
    five = commands.add_parser("engines")
    five.add_argument("bundle", type=Path)
    five.add_argument("--rounds", type=int, default=5)
    four = commands.add_parser("start")
    four.add_argument("bundle", type=Path)
    four.add_argument("scans", type=Path)
    four.add_argument("--rounds", type=int, default=3)
    three = commands.add_parser("soak")
    three.add_argument("bundle", type=Path)
    three.add_argument("--cases", type=int, default=1000)
    given = parser.parse_args()
    if given.command == "speed":
        speed(given.bundle.resolve(), given.scans, given.cases, given.rounds, given.engines)
    elif given.command == "memory":
        both = not given.ours_only
        memory(tuple(given.size), given.network, given.batch, given.engine, both)
    elif given.command == "engines":
        engines(given.bundle.resolve(), given.rounds)
    elif given.command == "start":
        start(given.bundle.resolve(), given.scans, given.rounds)
    else:
        soak(given.bundle, given.cases)


if __name__ == "__main__":
    if sys.argv[1:2] == ["_window"]:
        who, network, batch, engine, folder, *size = sys.argv[2:]
        _window(who, network, int(batch), engine, Path(folder), tuple(map(int, size)))
    else:
        _main()
