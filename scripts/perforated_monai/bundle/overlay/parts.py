"""What training is made of: trainer, network, optimizer, scheduler, evaluator and score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from .network import find_definition, network_class
from .train_config import Component, TrainConfig, reference, references

# What the score's class says about its direction; other classes are asked for.
_HIGHER_IS_BETTER = {
    *("MeanDice", "MeanIoUHandler", "MeanIoU", "GeneralizedDiceScore", "PanopticQuality"),
    *("Accuracy", "ROCAUC", "AveragePrecision", "Precision", "Recall", "Fbeta"),
}
_LOWER_IS_BETTER = ("Distance", "Error", "Loss")  # ends of class names


@dataclass(frozen=True)
class Parts:
    """Ids of a training's parts in the config.

    Attributes:
        network_def: the MONAI component that ``network`` is made from.
        network_class: its class name.
        scheduler: None without one.
        handlers: the list that handlers are added to, or None where it is an expression.
        handlers_text: that expression without ``$``; empty where the trainer has no handlers.
        metric: name of the score in the evaluator's metrics.
        interval: epochs between validations, as the config has it; None where none validates.
        run: the key whose expressions run the trainer.
    """

    trainer: str
    network: str
    network_def: str
    network_class: str
    optimizer: str
    scheduler: str | None
    evaluator: str
    metric: str
    handlers: str | None
    handlers_text: str
    interval: Any
    run: str


@dataclass(frozen=True)
class Given:
    """Ids named by the user; empty ones are looked for."""

    trainer: str = ""
    network: str = ""
    network_def: str = ""
    optimizer: str = ""
    scheduler: str = ""
    evaluator: str = ""
    metric: str = ""


def find_parts(config: TrainConfig, given: Given, trust: bool = False) -> Parts:
    """Find every part of a training.

    Args:
        config: the training config.
        given: ids that the user named.
        trust: a network of the bundle's own code may be imported.

    Raises:
        UserError: for a part that is not there or not clear; names the option and the candidates.
    """
    for option, identifier in vars(given).items():
        known = option == "metric" or identifier in ("", "none") or identifier in config
        if not known:
            msg = (
                f"--{option} {identifier}: {config.file.name} has no such id. Ids: {_some(config)}."
            )
            raise UserError(msg)
    trainer = _trainer(config, given.trainer)
    network = given.network or _argument(config, trainer, "network")
    network_def = given.network_def or find_definition(config, network)
    evaluator, interval = _evaluator(config, given.evaluator)
    return Parts(
        trainer=trainer.id,
        network=network,
        network_def=network_def,
        network_class=network_class(config, network_def, trust),
        optimizer=given.optimizer or _argument(config, trainer, "optimizer"),
        scheduler=_scheduler(config, given.scheduler),
        evaluator=evaluator,
        metric=_metric(config, evaluator, given.metric),
        handlers=_handlers(config, trainer),
        handlers_text=str(trainer.arguments.get("train_handlers") or "").lstrip("$"),
        interval=interval,
        run=_run(config, trainer.id),
    )


def ask(what: str, option: str, why: str, candidates: list[str]) -> UserError:
    """The error for a part that was not found: its option and what it could be."""
    if not candidates:  # naming one would lead in a circle
        return UserError(f"{why}, and nothing in it could be {what}: this training cannot grow.")
    shown = ", ".join(candidates[:8])
    return UserError(f"{why}: name {what} with --{option} ID. Candidates: {shown}.")


def _trainer(config: TrainConfig, given: str) -> Component:
    ends = [c for c in config.components() if c.name.endswith("Trainer")]
    chosen = config.component(given or "train::trainer")  # the id that MONAI's format asks for
    if chosen is None and not given and len(ends) == 1:
        chosen = ends[0]
    if chosen is None:
        why = f"{config.file.name} has no single component that is the trainer"
        raise ask("it", "trainer", why, [c.id for c in ends])
    return chosen


def _argument(config: TrainConfig, owner: Component, name: str) -> str:
    """Id of what an argument of the trainer holds."""
    if name not in owner.arguments:
        why = f"{owner.id} ({owner.name}) has no {name}; one network with one optimizer grows"
        others = [c.id for c in config.components() if name in (c.id, c.name.lower())]
        if not others:
            msg = f"{why}, so this training cannot grow by an overlay."
            raise UserError(msg)
        raise ask(f"the {name}", name, why, others)
    return reference(owner.arguments[name]) or f"{owner.id}::{name}"


def _scheduler(config: TrainConfig, given: str) -> str | None:
    if given:
        return None if given == "none" else given
    stepped = [c for c in config.components() if c.name == "LrScheduleHandler"]
    names = [reference(c.arguments.get("lr_scheduler")) or f"{c.id}::lr_scheduler" for c in stepped]
    names = list(dict.fromkeys(names))
    made = [c.id for c in config.components() if _is_schedule(c) and c.id not in names]
    if len(names) == 1 and not made:
        return names[0]
    if names or made:
        why = "More than one learning-rate schedule" if names else "No LrScheduleHandler steps it"
        raise ask("it, or none,", "scheduler", why, [*names, *made])
    return None


def _is_schedule(component: Component) -> bool:
    holds = "optimizer" in component.arguments
    return holds and component.name.endswith(("LR", "Schedule", "Scheduler", "Restarts", "Plateau"))


def _evaluator(config: TrainConfig, given: str) -> tuple[str, Any]:
    """Id of the evaluator, and the interval of the ValidationHandler that runs it."""
    handlers = [c for c in config.components() if c.name == "ValidationHandler"]
    runs = {reference(c.arguments.get("validator")) or f"{c.id}::validator": c for c in handlers}
    chosen = given or (next(iter(runs)) if len(runs) == 1 else "")
    if not chosen:
        every = [c.id for c in config.components() if c.name.endswith("Evaluator")]
        why = f"{len(runs)} evaluators are run by a ValidationHandler; growth follows one"
        raise ask("it", "evaluator", why, list(dict.fromkeys([*runs, *every])))
    if chosen not in runs:
        return chosen, None
    interval = runs[chosen].arguments.get("interval", 1)
    target = reference(interval)
    return chosen, config.get(config.follow(target)) if target else interval


def _metric(config: TrainConfig, evaluator: str, given: str) -> str:
    component = config.component(config.follow(evaluator))
    if component is None:
        msg = f"--evaluator {evaluator} is no enabled component: name a SupervisedEvaluator."
        raise UserError(msg)
    key = _entries(config, component, "key_val_metric")
    every = key | _entries(config, component, "additional_metrics")
    # MONAI takes the first entry of key_val_metric for the score.
    name = given or next(iter(key), "")
    if name not in every:
        why = f"{evaluator} has no metric {name}" if name else f"{evaluator} has no key_val_metric"
        raise ask("the score", "metric", why, list(every))
    if every[name].endswith(_LOWER_IS_BETTER):
        better = [n for n in every if every[n] in _HIGHER_IS_BETTER]
        why = f"{name} is a {every[name]}, where lower is better, and growth needs the opposite"
        if not better:
            raise UserError(f"{why}: this training has no other score, so it cannot grow.")
        raise ask("one", "metric", why, better)
    if not given and every[name] not in _HIGHER_IS_BETTER:
        why = f"{name} is a {every[name]}, and whether higher is better is not known here"
        raise ask("it again to say so, or another,", "metric", why, list(every))
    return name


def _entries(config: TrainConfig, evaluator: Component, argument: str) -> dict[str, str]:
    """Metric name -> class name."""
    value = evaluator.arguments.get(argument)
    start = reference(value)
    where = config.follow(start) if start else f"{evaluator.id}::{argument}"
    entries = config.get(where)
    if not isinstance(entries, dict):
        return {}
    classes = {name: config.component(config.follow(f"{where}::{name}")) for name in entries}
    return {name: c.name if c else "unknown class" for name, c in classes.items()}


def _handlers(config: TrainConfig, trainer: Component) -> str | None:
    """Id of the list of handlers; None where the trainer has an expression or none at all."""
    value = trainer.arguments.get("train_handlers")
    start = reference(value)
    where = config.follow(start) if start else f"{trainer.id}::train_handlers"
    is_list = isinstance(config.get(where), list) and config.overridable(f"{where}::0")
    return where if is_list else None


def _run(config: TrainConfig, trainer: str) -> str:
    for key in config.top_keys():
        value = config.get(key)
        lines = value if isinstance(value, list) else [value]
        if any(trainer in references(line) and ".run(" in line for line in lines):
            return key
    msg = f"No expression of {config.file.name} runs @{trainer}: give a config that trains."
    raise UserError(msg)


def _some(config: TrainConfig) -> str:
    named = [c.id for c in config.components()]
    return ", ".join(dict.fromkeys([*config.top_keys(), *named]))[:400]
