"""The overlay as commented YAML: knobs first, command on top."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import monai
import yaml

from ..._version import __version__
from ...dendrites.config import DendriteConfig
from ...dendrites.kinds import SETTINGS, owners
from .compat import Mend
from .parts import Parts
from .plan import Plan
from .redirect import Redirect

_WATCH = "$perforated_monai.watch_bundle"


@dataclass(frozen=True)
class Content:
    """What the overlay of a bundle says.

    Attributes:
        name: of the bundle.
        config_file: as it stands on the command line.
        bundle: likewise.
        output_dir: where the run writes unless it is told otherwise.
        log_files: the bundle's logging.conf writes files.
        bundle_root: to set, where the config has none.
        lists: what the config has at ``imports``, ``initialize`` and ``finalize``.
        start: expression of the weights to start from, None to start from scratch.
        start_note: why.
        layer_types, layer_names, freeze_base: knobs.
        plan: the kinds that grow, and what one set adds.
        notes: sentences for the head.
        compiled: ids of ``compile`` to switch off.
        mends: what the bundle needs under the installed MONAI.
        own_code: the config needs the bundle's package ``scripts``.
        trust: export has to import it as well.
    """

    name: str
    config_file: str
    bundle: str
    output_dir: str
    log_files: bool
    bundle_root: str
    lists: Mapping[str, Any]
    start: str | None
    start_note: str
    layer_types: Sequence[str]
    layer_names: Sequence[str]
    freeze_base: bool
    plan: Plan
    notes: Sequence[str]
    compiled: Sequence[str]
    mends: Sequence[Mend] = ()
    own_code: bool = False
    trust: bool = False


def overlay_text(content: Content, parts: Parts, redirects: Sequence[Redirect]) -> str:
    """The overlay file; the same input gives the same text."""
    sections = [
        _head(content, parts),
        _knobs(content, parts),
        _start(content),
        _moves(content, redirects),
        _handlers(content, parts),
    ]
    if content.mends:
        sections.insert(3, compat_text(content.mends).rstrip("\n"))
    return "\n\n".join(sections) + "\n"


def compat_text(mends: Sequence[Mend]) -> str:
    """The overrides of mends, each below the sentence that says what fails; "" for none."""
    if not mends:
        return ""
    lines = _comment(
        f"What the bundle needs under monai {monai.__version__}. Alone, for training without "
        "dendrites: overlay --compat compat.yaml."
    )
    for mend in mends:
        lines += _comment(mend.reason)
        for identifier, value in mend.lines.items():
            lines.append(f"{_key(identifier)}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _head(content: Content, parts: Parts) -> str:
    run = "run" if parts.run == "run" else f"run {parts.run}"
    out, bundle = shlex.quote(content.output_dir), shlex.quote(content.bundle)
    files = f"\"['{content.config_file}','dendrites.yaml']\""
    # MONAI puts the bundle's folder on the path only after its first expressions have run.
    path = f"PYTHONPATH={bundle}:$PYTHONPATH " if content.own_code else ""
    command = [
        f"{path}python -m monai.bundle {run} --config_file {files}",
        f"--bundle_root {bundle} --output_dir {out}",
    ]
    if content.log_files:
        command[-1] += " --logging_file False"
    outside = content.output_dir.removesuffix(f"runs/{content.name}")
    scheduler = f"schedule @{parts.scheduler}" if parts.scheduler else "no learning-rate schedule"
    every = "each epoch" if parts.interval == 1 else f"every {parts.interval} epochs"
    validated = "" if parts.interval is None else f", validated {every}"
    summary = (
        f"Found: trainer @{parts.trainer}; network @{parts.network}, a {parts.network_class} of "
        f"{parts.network_def}; optimizer @{parts.optimizer}; {scheduler}; evaluator "
        f"@{parts.evaluator}; score {parts.metric}{validated}."
    )
    lines = [
        f"Grow dendrites in {content.name}. Written by perforated_monai {__version__}. No file of "
        "the bundle is changed by training.",
        summary,
        *content.notes,
    ]
    commented = [line for text in lines for line in _comment(text)]
    export = f"python -m perforated_monai export {out} --bundle {bundle}"
    export += f" --out {shlex.quote(f'{outside}{content.name}_dendritic')}"
    export += " --trust" if content.trust else ""
    shown = [_one_line(line) for line in (*command, export)]
    commands = [f"#   {shown[0]} \\", f"#     {shown[1]}", f"#   {shown[2]}"]
    first = len(_comment(lines[0]))
    return "\n".join([*commented[:first], *commands, *commented[first:]])


# What an overlay sets otherwise than the library does: one set, with a signal from the first step.
_VALUES = {
    **{"patience": 5, "max_dendrites": 1, "tries": 1},
    **{"activation": "kind", "initialisation": "layer", "scale": 1.0},
}


def _knobs(content: Content, parts: Parts) -> str:
    every = "" if parts.interval in (None, 1) else f" (one every {parts.interval} epochs)"
    values: dict[str, Any] = DendriteConfig().to_dict() | _VALUES
    for name in ("layer_types", "layer_names"):
        values[name] = list(getattr(content, name))
    values |= {"freeze_base": content.freeze_base}
    values |= {"sets": content.plan.sets, "kind": content.plan.kind}
    lines = ["dendrites:"]
    for each in DendriteConfig.knobs():
        note = each.metadata["note"]
        if each.name in SETTINGS:
            note = f"of {owners(each.name).partition(' ')[2]}{note}"
        note = note.replace("{every}", every).replace("{cost}", content.plan.cost)
        lines += _knob(each.name, values[each.name], note)
    return "\n".join(lines)


def _start(content: Content) -> str:
    lines = [
        *_comment(content.start_note),
        f"base_weights: {_scalar(content.start)}",
        "run_seed: 0  # order, augmentation, dropout and dendrite initialisation",
    ]
    if content.bundle_root:
        lines.append(f"bundle_root: {_scalar(content.bundle_root)}")
    return "\n".join(lines)


def _moves(content: Content, redirects: Sequence[Redirect]) -> str:
    lines = [
        "# Everything that training writes goes below output_dir, nothing into the bundle.",
        f"output_dir: {_scalar(content.output_dir)}",
    ]
    for redirect in redirects:
        was = _one_line(redirect.was)
        lines.append(f"{_key(redirect.id)}: {_scalar(redirect.text)}  # was {was}")
    return "\n".join(lines)


def _handlers(content: Content, parts: Parts) -> str:
    validation = [
        "- _target_: ValidationHandler",
        f"  validator: {_scalar(f'@{parts.evaluator}')}",
        "  interval: 1",
        "  epoch_level: true",
    ]
    ours = [
        "- _target_: perforated_monai.RunHandler",
        '  output_dir: "@output_dir"',
        f"  evaluator: {_scalar(f'@{parts.evaluator}')}",
        f"  network: {_scalar(f'@{parts.network}')}",
        f"  optimizer: {_scalar(f'@{parts.optimizer}')}",
        f"  lr_scheduler: {_scalar(f'@{parts.scheduler}' if parts.scheduler else None)}",
        '  seed: "@run_seed"',
        '  start_weights: "@base_weights"',
        f"  metric: {_scalar(parts.metric)}",
        '  run_config: "$perforated_monai.merged_config()"',
        "- _target_: perforated_monai.DendriteHandler",
        f"  evaluator: {_scalar(f'@{parts.evaluator}')}",
        '  config: "@dendrites"',
    ]
    entries = ours if parts.interval is not None else [*validation, *ours]
    lines = [
        "# How growth enters; behind the bundle's own handlers.",
        "perforated_overlay:",
        f"  network_def: {_scalar(parts.network_def)}",
        *_longer(content, "imports", "$import perforated_monai"),
        *_longer(content, "initialize", f"{_WATCH}(@bundle_root, @output_dir)"),
        *_longer(content, "finalize", "$perforated_monai.bundle_unchanged()"),
        f"{_key(f'+{parts.handlers}')}:" if parts.handlers else "dendrite_handlers:",
        *(f"  {line}" for line in entries),
    ]
    for identifier in content.compiled:
        lines.append(f"{_key(identifier)}: false  # a compiled network cannot change its layers")
    if not parts.handlers:
        own = parts.handlers_text
        joined = f"$[*({own}), *@dendrite_handlers]" if own else "@dendrite_handlers"
        lines.append(f"{_key(f'{parts.trainer}::train_handlers')}: {_scalar(joined)}")
    return "\n".join(lines)


def _longer(content: Content, key: str, line: str) -> list[str]:
    """One more expression at the end of what the config has there."""
    now = content.lists.get(key)
    if isinstance(now, list):
        return [f"+{key}:", f"  - {_scalar(line)}"]
    return [f"{key}:", *(f"  - {_scalar(entry)}" for entry in (now, line) if entry is not None)]


def _knob(name: str, value: Any, why: str) -> list[str]:
    entry = f"  {name}: {_scalar(value)}"
    if len(entry) + len(why) < 98:
        return [f"{entry:<28}  # {why}"]
    return [f"  # {why}", entry]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(_one_line(text), 108, initial_indent="# ", subsequent_indent="#   ")


def _one_line(text: str) -> str:
    """No text of the bundle may end a comment's line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _flow(value: Any) -> str:
    """A value on one line; unlike in JSON, small floats read back as floats."""
    if isinstance(value, str):
        return _scalar(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False).strip()


def _key(identifier: str) -> str:
    return identifier if re.fullmatch(r"[+\w:]+", identifier) else json.dumps(identifier)


def _scalar(value: Any) -> str:
    """JSON, which YAML reads as the same value; plain words stay plain."""
    if isinstance(value, str) and value.isidentifier() and value.lower() not in _NOT_PLAIN:
        return value
    if isinstance(value, list):
        return f"[{', '.join(_scalar(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_scalar(v)}' for k, v in value.items())}}}"
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0") + ("0" if value == int(value) else "")
    return json.dumps(value, ensure_ascii=False)


# Words that YAML 1.1 takes for something else than text.
_NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
