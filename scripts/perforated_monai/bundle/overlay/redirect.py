"""Where a training config writes, and the overrides that move all of it into ``output_dir``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from .train_config import Component, TrainConfig, references

# Arguments that name a folder to write into, whatever the component, and its place in output_dir.
_FOLDERS = {
    **dict.fromkeys(("save_dir", "ckpt_dir", "checkpoint_dir", "model_dir"), "models"),
    **dict.fromkeys(("log_dir", "logdir", "tensorboard_dir", "tb_dir"), "logs"),
    **dict.fromkeys(("output_dir", "out_dir", "work_dir", "run_dir", "exp_dir"), "outputs"),
    "cache_dir": "cache",
}
# Components that write into the current folder unless they are told where.
_WRITE_ANYWAY = {
    "TensorBoardStatsHandler": "log_dir",
    "TensorBoardImageHandler": "log_dir",
    "SummaryWriter": "log_dir",
    "MLFlowHandler": "tracking_uri",
    "LogfileHandler": "output_dir",
    "SaveImaged": "output_dir",
    "SaveImage": "output_dir",
}
_SERVER = re.compile(r"^\$?[f'\"]*(?!file:|sqlite:)[a-z][a-z0-9+]*://")
_MLFLOW = "$monai.utils.path_to_sqlite_uri(str(@output_dir) + '/mlruns.db')"


@dataclass(frozen=True)
class Redirect:
    """An id, its new text, and what the bundle has there."""

    id: str
    text: str
    was: str


def find_redirects(config: TrainConfig) -> list[Redirect]:
    """Overrides for every checkpoint saver, log folder, cache and folder variable.

    Raises:
        UserError: for a writer that an overlay cannot reach.
    """
    redirects: list[Redirect] = []
    for component in config.components():
        for name, leaf in _written(config, component):
            identifier = f"{component.id}::{name}"
            if not config.overridable(identifier):
                if _comes_from_here(config, component):
                    continue  # a macro's copy: its source is redirected
                msg = f"{identifier} comes from another file (%): an overlay cannot move it."
                raise UserError(msg)
            was = component.arguments.get(name)
            text = _MLFLOW if name == "tracking_uri" else f"$str(@output_dir) + '/{leaf}'"
            redirects.append(Redirect(identifier, text, "not set" if was is None else str(was)))
    redirects = _apart(redirects)
    return redirects + _variables(config, {r.id for r in redirects})


def log_files(bundle: Path) -> bool:
    """Whether the bundle's ``logging.conf``, which MONAI applies by itself, writes files."""
    file = bundle / "configs" / "logging.conf"
    try:
        return bool(re.search(r"^\s*class\s*=.*FileHandler", file.read_text(), re.MULTILINE))
    except (OSError, UnicodeDecodeError):
        return False


def _written(config: TrainConfig, component: Component) -> list[tuple[str, str]]:
    """Arguments of a component that must move, with their place in output_dir."""
    names = [n for n in component.arguments if n in _FOLDERS and component.arguments[n] is not None]
    anyway = _WRITE_ANYWAY.get(component.name)
    own_writer = component.arguments.get("summary_writer") is not None
    if anyway and component.arguments.get(anyway) is None and not own_writer:
        names.append(anyway)
    if component.arguments.get("tracking_uri") is not None:
        names.append("tracking_uri")
    return [
        (n, _FOLDERS.get(n, "")) for n in dict.fromkeys(names) if _must_move(config, component, n)
    ]


def _must_move(config: TrainConfig, component: Component, name: str) -> bool:
    value = component.arguments.get(name)
    if not isinstance(value, str):
        return True
    if name == "tracking_uri":
        return not _SERVER.match(_text_behind(config, value))
    roots = _roots(config, value)
    if roots == {"output_dir"}:
        return False
    if name == "cache_dir":  # a cache elsewhere is the user's own, to be shared between runs
        elsewhere = _text_behind(config, value).lstrip("$'\"").startswith("/")
        return "bundle_root" in roots or not elsewhere
    return True


def _roots(config: TrainConfig, text: str) -> set[str]:
    """Top-level variables at the end of a text's references; ``output_dir`` counts as one."""
    roots: set[str] = set()
    waiting, seen = references(text), set()
    while waiting:
        identifier = waiting.pop()
        if identifier in seen:
            continue
        seen.add(identifier)
        inner = references(config.get(identifier))
        if identifier in ("output_dir", "bundle_root") or not inner:
            roots.add(identifier)
        else:
            waiting += inner
    return roots


def _text_behind(config: TrainConfig, text: str) -> str:
    ids = references(text)
    if text.startswith("@") and ids:
        return str(config.get(config.follow(ids[0])))
    return text


def _comes_from_here(config: TrainConfig, component: Component) -> bool:
    same = [c for c in config.components() if c.name == component.name]
    return any(
        c.arguments == component.arguments and config.overridable(f"{c.id}::x") for c in same
    )


def _apart(redirects: list[Redirect]) -> list[Redirect]:
    """Folders that were different stay different, so that equal file names do not meet."""
    places: dict[str, list[str]] = {}
    moved = []
    for redirect in redirects:
        before = places.setdefault(redirect.text, [])
        if redirect.was not in before:
            before.append(redirect.was)
        number = before.index(redirect.was)
        text = redirect.text
        if number and text != _MLFLOW:
            text = f"{text[:-1]}_{number + 1}'"
        moved.append(Redirect(redirect.id, text, redirect.was))
    return moved


def _variables(config: TrainConfig, moved: set[str]) -> list[Redirect]:
    """Folder variables (``ckpt_dir``) that something else than the moved arguments uses.

    What only reads through them keeps the bundle's own path, written out.
    """
    redirects = []
    for key in config.top_keys():
        value = config.get(key)
        if key not in _FOLDERS or key == "output_dir" or not isinstance(value, str):
            continue
        if _roots(config, value) == {"output_dir"}:
            continue
        uses = [(i, t) for i, t in config.texts() if key in references(t) and i not in moved]
        readers = [(i, t) for i, t in uses if _reads(config, i, t)]
        if len(readers) == len(uses):
            continue
        redirects.append(Redirect(key, f"$str(@output_dir) + '/{_FOLDERS[key]}'", value))
        redirects += [
            Redirect(i, _written_out(t, key, value), t) for i, t in readers if config.overridable(i)
        ]
    return redirects


def _reads(config: TrainConfig, identifier: str, text: str) -> bool:
    """Whether a use of a folder variable only reads from it."""
    if "::" not in identifier:  # another variable: it reads when all that use it do
        uses = [(i, t) for i, t in config.texts() if identifier in references(t)]
        return bool(uses) and all(_reads(config, i, t) for i, t in uses if i != identifier)
    parent, _, argument = identifier.rpartition("::")
    component = config.component(parent)
    loader = component is not None and component.name.endswith("Loader")
    return loader or argument == "load_path" or "torch.load(" in text or "load_state" in text


def _written_out(text: str, key: str, value: str) -> str:
    """A text with ``@key`` replaced by what the variable holds."""
    inner = value if value.startswith("@") else repr(value)
    if value.startswith("$"):
        inner = f"({value[1:]})"
    if text.lstrip("$").strip() == f"@{key}":
        return value
    pattern = re.compile(rf"@{re.escape(key)}(?![\w:#])")
    return pattern.sub(lambda _: inner, text)
