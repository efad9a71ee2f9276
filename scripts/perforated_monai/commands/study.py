"""The command that runs a study and collects its results."""

from __future__ import annotations

from .arguments import Count, Positive


def study(
    action: str,
    file: str,
    dataset_dir: str = "",
    results: str = "",
    work: str = "",
    manifest: str = "",
    workers: Count = 1,
    storage: str = "",
    budget_minutes: Positive | None = None,
    arms: str = "",
    networks: str = "",
    seeds: str = "",
    tracking: str = "",
) -> int:
    """Run what is missing of a study, print where it stands, or collect its results as tables.

    Args:
        action: run, status or collect.
        file: study file, such as bundles/hippocampus_mri_dendritic/studies/width8.yaml.
        dataset_dir: folder of the data, with run.
        results: folder of what is kept; by default results/<study> beside the study file.
        work: folder of checkpoints and logs; by default work in the results folder.
        manifest: manifest file; by default the bundle's.
        workers: trials at a time.
        storage: database URL of a sweep for many machines; SQLite in the results by default.
        budget_minutes: stop cleanly after so long; the same command goes on.
        arms: only these, with commas.
        networks: only these, with commas.
        seeds: only these, with commas.
        tracking: also log to mlflow or wandb, with commas (wandb stays offline unless told).
    """
    from ..errors import UsageError
    from . import study_run as commands

    if action == "status":
        return commands.status(str(file), str(results), str(storage))
    if action == "collect":
        return commands.collect(str(file), str(results))
    if action != "run":
        msg = f"study takes run, status or collect; got {action!r}."
        raise UsageError(msg)
    if not dataset_dir:
        msg = "study run needs --dataset_dir DIR, the folder of the data."
        raise UsageError(msg)
    wanted = commands.Wanted(
        file=str(file),
        dataset_dir=str(dataset_dir),
        results=str(results),
        work=str(work),
        manifest=str(manifest),
        workers=workers,
        budget_minutes=budget_minutes,
        only={"arms": arms, "networks": networks, "seeds": seeds},
        storage=str(storage),
        tracking=tracking,
    )
    return commands.run(wanted)
