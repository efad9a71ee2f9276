"""The commands that run a study and report what it found."""

from __future__ import annotations


def study(
    action: str,
    file: str,
    dataset_dir: str = "",
    results: str = "",
    work: str = "",
    manifest: str = "",
    workers: int = 1,
    storage: str = "",
    budget_minutes: float | None = None,
    arms: str = "",
    tracking: str = "",
) -> int:
    """Run what is missing of a study, or print where it stands.

    Args:
        action: run or status.
        file: study file, such as bundles/hippocampus_mri_dendritic/studies/width8.yaml.
        dataset_dir: folder of the data, with run.
        results: folder of what is kept; by default results/<study> beside the study file.
        work: folder of checkpoints and logs; by default work in the results folder.
        manifest: manifest file; by default the bundle's.
        workers: trials at a time.
        storage: database URL of a sweep for many machines; SQLite in the results by default.
        budget_minutes: stop cleanly after so long; the same command goes on.
        arms: only these, with commas.
        tracking: also log to mlflow or wandb, with commas (wandb stays offline unless told).
    """
    from ..errors import UsageError
    from . import study_run as commands

    if action == "status":
        return commands.status(str(file), str(results), str(storage))
    if action != "run":
        msg = f"study takes run or status; got {action!r}."
        raise UsageError(msg)
    if not dataset_dir:
        msg = "study run needs --dataset_dir DIR, the folder of the data."
        raise UsageError(msg)
    return commands.run(
        str(file),
        str(dataset_dir),
        str(results),
        str(work),
        str(manifest),
        workers,
        budget_minutes,
        arms,
        str(storage),
        tracking,
    )


def report(file: str, results: str = "", work: str = "", images: bool = False) -> int:
    """Write report.html and report.md of a study into its results folder.

    Args:
        file: study file.
        results: folder of its results; by default results/<study> beside the study file.
        work: folder of its checkpoints; by default work in the results folder.
        images: show the worst cases on slices of the images, which lie in the work folder.
    """
    from .study_run import report as write

    return write(str(file), str(results), str(work), bool(images))
