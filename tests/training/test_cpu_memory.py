"""Freed memory is kept: a step that was done before faults no page in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, sys
import torch
from perforated_monai.training.cpu_memory import keep_freed_memory

torch.set_num_threads(1)
print(keep_freed_memory() if "keep" in sys.argv else None)
x = torch.ones(2**24)  # 64 MiB: above the largest threshold that glibc sets by itself
found = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = x + 1
    del y
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# glibc before 2.38 needs some steps until aligned blocks of this size find a freed one.
print(sorted(found)[5])
"""


def run(repo: Path, *words: str, **variables: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {"PYTHONPATH": str(repo / "scripts"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_repeated_step_faults_nothing_in(repo: Path) -> None:
    kept, faults = run(repo, "keep")
    if kept == "False":
        pytest.skip("the C library of this system is not glibc")
    assert int(faults) < 100
    assert int(run(repo)[1]) > 100  # pages may be 4 KiB or 2 MiB; the default takes them anew


def test_what_the_user_set_stays(repo: Path) -> None:
    assert run(repo, "keep", MALLOC_MMAP_THRESHOLD_="1000000")[0] == "False"
