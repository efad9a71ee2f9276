"""What ``prepare`` prints and writes of a plan."""

from __future__ import annotations

from pathlib import Path

from ..data.check.check import check_dataset
from ..data.fingerprint import measure
from ..data.manifest import Manifest, refuse
from ..data.plan import checked_spacing, make_plan
from ..data.plan_file import expect_plan, write_plan
from ..errors import UserError
from ..inference.segment.limits import free_memory


class Wanted:
    """The plan that a command line asks for, refused before any volume is read.

    Args:
        file: where the overlay goes.
        memory: GiB at hand; None asks the machine.
        spacing: true mm as "X,Y,Z"; empty takes the headers'.

    Raises:
        UserError: a file that is no plan, or a spacing that is no numbers.
    """

    def __init__(self, file: str, memory: float | None, spacing: str) -> None:
        expect_plan(file)
        self.file = file
        self.bytes = memory_at_hand() if memory is None else round(memory * 2**30)
        self.spacing = _numbers(spacing) if spacing else None
        if self.spacing is not None:
            checked_spacing(self.spacing)


def print_plan(folder: Path, manifest: Manifest | None, wanted: Wanted) -> None:
    """Print what a dataset looks like, and write the overlay that follows from it.

    Args:
        folder: of the dataset.
        manifest: None takes what is in the folder, as `check` does.
        wanted: file, memory and spacing.

    Raises:
        UserError: as `measure` and `make_plan`, and what `check` calls an error in a header.
    """
    audit = check_dataset(folder, manifest, read="headers")
    refuse(audit.errors())
    manifest = audit.manifest
    fingerprint = measure(manifest, folder)
    plan = make_plan(fingerprint, wanted.bytes, fingerprint.classes, wanted.spacing)
    print(fingerprint.text())
    write_plan(plan, fingerprint, manifest, wanted.file)
    sizes = " x ".join(map(str, plan.roi_size))
    strides = ", ".join("x".join(map(str, row)) for row in plan.strides)
    print(f"plan: crops of {sizes} voxels, {plan.batch_size} a step, strides {strides}")
    print(f"{wanted.file} is an overlay for training, with the reason of each value")


def memory_at_hand() -> int:
    """Bytes that training can take: of the GPU where there is one, else of the machine."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free = free_memory()
    if free is None:
        msg = "free memory is unknown on this machine. Name what training will have: --memory GIB."
        raise UserError(msg)
    return free


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.strip("()[] ").split(",")]
    except ValueError:
        msg = f"--spacing must be three numbers as 0.9,0.9,6.5; got {text!r}. Correct it."
        raise UserError(msg) from None
