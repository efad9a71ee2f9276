"""The figures of the data check: seconds, memory, and damage that is found.

    python tests/benchmarks/data_check.py --data ../shared/data/Task04_Hippocampus

Prints a table; every row says what was measured. `--cases 100 --fuzzes 1000` is a short run.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from perforated_monai.data.check import check_dataset
from perforated_monai.data.check.volume import read_volume
from perforated_monai.data.manifest import load_manifest
from perforated_monai.data.phantoms import make_phantoms
from perforated_monai.data.prepare import write_manifest

REPEATS = 3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="Task04_Hippocampus in MSD layout")
    parser.add_argument("--cases", type=int, default=1000, help="phantoms of the memory figure")
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--fuzzes", type=int, default=10_000)
    arguments = parser.parse_args()
    data = Path(arguments.data).resolve()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    print_times(data)
    with tempfile.TemporaryDirectory() as folder:
        print_memory(Path(folder), arguments.cases)
        print_flips(data, Path(folder), arguments.flips)
        print_fuzzes(Path(folder), arguments.fuzzes)


def print_times(data: Path) -> None:
    """Seconds of the check, inside a process and with its start."""
    files = 2 * len(check_dataset(data, "hippocampus_msd", read="headers").pairs)
    for read, flags in (("all", []), ("headers", ["--headers"])):
        before = time.process_time()
        inside = [
            _seconds(lambda r=read: check_dataset(data, "hippocampus_msd", read=r))
            for _ in range(REPEATS)
        ]
        cpu = (time.process_time() - before) / REPEATS
        command = [sys.executable, "-m", "perforated_monai", "check", str(data)]
        command += ["--manifest", "hippocampus_msd", *flags]
        whole = [
            _seconds(lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL))
            for _ in range(REPEATS)
        ]
        print(
            f"check, {read}: {files} files in {min(inside):.2f} s ({cpu:.2f} s of CPU), "
            f"{min(whole):.2f} s as a command (fastest of {REPEATS})"
        )


def print_memory(folder: Path, cases: int) -> None:
    """Peak memory of fresh processes that check more and more cases; a slope would be a leak."""
    root = make_phantoms(folder / "many", cases=cases)
    manifest = write_manifest(root, root / "manifest.json", "many")
    peaks = {count: _peak_mb(CHECK, root, count) for count in (cases // 10, cases // 2, cases)}
    (few, low), *_, (many, high) = peaks.items()
    shown = ", ".join(f"{count}: {peak:.0f} MB" for count, peak in peaks.items())
    slope = (high - low) / (many - few) * 100
    print(f"peak memory by cases: {shown}; {slope:.2f} MB per 100 of {len(manifest.cases)} cases")
    large = make_phantoms(folder / "ct", cases=1, kind="ct", shape=(512, 512, 300))
    peak = _peak_mb(CHECK, large, 1)
    print(f"a CT of 512 x 512 x 300 (157 MB): peak {peak:.0f} MB")


CHECK = """
import re, sys
from pathlib import Path
from perforated_monai.audit import check_dataset
count = int(sys.argv[2])
names = sorted(p.name for p in (Path(sys.argv[1]) / "imagesTr").iterdir())[:count]
check_dataset(sys.argv[1], cases=[name.removesuffix(".nii.gz") for name in names])
# ru_maxrss would hold the peak of the process that started this one
status = Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) / 1024)
"""


def _peak_mb(code: str, *words: object) -> float:
    command = [sys.executable, "-c", code, *map(str, words)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_flips(data: Path, folder: Path, count: int) -> None:
    """Single bits flipped in real images: what reading alone finds, and what the manifest adds."""
    manifest = load_manifest("hippocampus_msd")
    cases = [c for c in sorted(manifest.cases) if c not in manifest.test]
    rng = np.random.default_rng(21)
    unreadable = other = packing = silent = 0
    for number in range(count):
        case = cases[number % len(cases)]
        name = f"{case}.nii.gz"
        content = bytearray((data / "imagesTr" / name).read_bytes())
        bit = int(rng.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(content)
        volume = read_volume(folder.resolve(), name)
        known = manifest.cases[case] or {}
        if volume.failure is not None:
            unreadable += 1
        elif volume.content is not None and volume.content.sha256 != known["image"]:
            other += 1
        elif volume.content is not None and volume.content.crc32 != known["image_crc32"]:
            packing += 1  # unpacks to the very same bytes
        silent += _nibabel_reads(folder / name)
    print(
        f"bit flips: {unreadable + other + packing} of {count} found: {unreadable} by reading, "
        f"{other} by sha256, {packing} (the same bytes unpacked) by CRC-32; nibabel reads {silent}"
    )


def print_fuzzes(folder: Path, count: int) -> None:
    """One to three random header bytes: what passes with another geometry, a manifest given."""
    root = make_phantoms(folder / "few", cases=10)
    manifest = write_manifest(root, root / "manifest.json", "few")
    case = sorted(manifest.cases)[0]
    image = root / manifest.files(case)[0]
    raw = gzip.decompress(image.read_bytes())
    rng = np.random.default_rng(16)
    unnamed, slowest = 0, 0.0
    for _ in range(count):
        fuzzed = bytearray(raw)
        for position in rng.integers(0, 348, rng.integers(1, 4)):
            fuzzed[position] = rng.integers(256)
        image.write_bytes(gzip.compress(fuzzed, 1))
        start = time.perf_counter()
        audit = check_dataset(root, manifest, cases=[case], workers=1)
        slowest = max(slowest, time.perf_counter() - start)
        unnamed += fuzzed != raw and not audit.errors()
    print(
        f"header fuzzes: {unnamed:.0f} of {count} pass, no crash; the slowest took {slowest:.2f} s"
    )


def _nibabel_reads(path: Path) -> bool:
    try:
        np.asanyarray(nib.load(path).dataobj)
    except Exception:
        return False
    return True


def _seconds(work: object) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
