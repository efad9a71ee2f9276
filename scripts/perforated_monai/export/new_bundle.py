"""A run and the bundle it came from -> a new bundle folder; the source is only read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle.scripts import _get_fake_spatial_shape
from torch import nn

from .._version import __version__
from ..bundle import large_files
from ..bundle.configs import find_config, has_id, replace_in_config
from ..bundle.loaded_weights import load_model_pt, loaded_files
from ..bundle.own_code import own_code
from ..bundle.staged import new_folder
from ..data.reading import read_mapping
from ..errors import UserError
from ..files import write_json, write_text
from ..growth.trained import Trained, load_trained, make_spec
from ..inference.formats import choose_formats, is_fixed
from ..inference.patches import Patches, load_patches, noise_patches
from ..networks.build import build_network
from ..training.run_folder import RunFolder
from .options import Proof, cut_to
from .page import write_page
from .plain_network import PlainNetwork, compare_with_trained

_CONFIGS = ("train", "evaluate", "inference")
_LARGEST_SIDE = 96  # voxels of a patch to compare on, where the network takes other sizes
_OF_NETWORK = ("network.json", "parity.json")  # in models/, beside model.*
_SKIPPED = (".git", "__pycache__", ".export-*", ".perforated-monai-*", "*.pyc", ".DS_Store")


def export_to_new_bundle(
    run: str | Path,
    bundle: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] | None = (),
    volumes: str | Path | None = None,
    engine: str = "",
    proof: Proof | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Copy a bundle and replace its network by the best one of a run.

    In the copy: ``models/model.pt``, ``network.json`` and ``parity.json``; the network's definition
    in ``configs/{train,evaluate,inference}`` as they exist, JSON or YAML; version, changelog and
    ``eval_metrics`` of ``metadata.json``; ``large_files.yml`` without the former weights. Other
    forms of the former network (``model.ts``, …) are left behind.

    Args:
        run: run folder of a training with the overlay of ``bundle``.
        bundle: where it came from; only read.
        out: the folder to make.
        formats, engine: as for ``export_run``.
        volumes: folder of volumes to compare on; smooth noise when not given.
        proof: how many patches, and of which size.
        trust: import a network of the bundle's own code.

    Returns:
        what ``network.json`` holds.

    Raises:
        UserError: as ``export_run``; and for an ``out`` that exists or overlaps the bundle or run.
    """
    source, target = Path(bundle), Path(out)
    refuse_overlap(source, target, Path(run))
    with own_code(source) if trust else contextlib.nullcontext():
        return _export(
            *(run, source, target, choose_formats(formats), volumes, engine, proof or Proof())
        )


def _export(
    run: str | Path,
    source: Path,
    target: Path,
    chosen: list[str],
    volumes: str | Path | None,
    engine: str,
    proof: Proof,
) -> dict[str, Any]:
    metadata = _metadata(source)
    inference = _inference(source)
    trained = load_trained(run)
    spec, network = _spec(trained)
    shape = patch_shape(metadata, spec, proof.size)
    if proof.size and chosen and is_fixed(spec["base"]["name"]):
        msg = (
            f"{spec['base']['name']} takes one window size, which its other formats keep: leave "
            "--size out, or add --formats none."
        )
        raise UserError(msg)
    plain = compare_with_trained(
        *(trained, spec, network),
        patches=_patches(source, inference, shape, volumes, proof),
        shape=shape,
        inference=inference,
        metadata=metadata,
        proof=proof,
    )
    with new_folder(target) as stage:
        _copy(source, stage, loaded_files(inference))
        _write(stage, plain)
        _write_metadata(stage, metadata, plain)
        write_page(stage, plain.record, source.resolve().name)
        plain.prove(stage, stage, chosen, engine, proof)
    return plain.record


def patch_shape(metadata: dict[str, Any], spec: dict[str, Any], size: int = 0) -> tuple[int, ...]:
    """``(C, *space)`` of a patch to compare on, from the first input of ``metadata.json``.

    ``size`` is the most voxels along an axis that the caller asked for.

    Raises:
        UserError: where it says none.
    """
    try:
        image = next(iter(metadata["network_data_format"]["inputs"].values()))
        space = example_space(image["spatial_shape"])
        channels = int(image["num_channels"])
    except (KeyError, StopIteration, TypeError, ValueError, AttributeError) as error:
        msg = f"metadata.json must give network_data_format with inputs ({error}): correct it."
        raise UserError(msg) from None
    if size:
        return (channels, *cut_to(space, size))
    if "img_size" not in spec["base"] and len(space) > 2:
        space = cut_to(space, _LARGEST_SIDE)
    return (channels, *space)


def example_space(pattern: Sequence[int | str]) -> tuple[int, ...]:
    """A size that ``spatial_shape`` of ``metadata.json`` allows, such as 32 × 4 for ``"32 * n"``.

    MONAI's own reading of the patterns, which it keeps private; a test holds it.
    """
    return _get_fake_spatial_shape(pattern, p=5, n=4, any=64)


def refuse_overlap(source: Path, target: Path, run: Path) -> None:
    """Refuse to write into, or around, what is only read.

    Raises:
        UserError: naming both folders.
    """
    new = target.resolve()
    for name, folder in (("the bundle", source.resolve()), ("the run", run.resolve())):
        if new == folder or new.is_relative_to(folder) or folder.is_relative_to(new):
            msg = f"{target} and {name} {folder.name} must be apart: name a folder outside of it."
            raise UserError(msg)


def _metadata(bundle: Path) -> dict[str, Any]:
    file = bundle / "configs" / "metadata.json"
    if not file.is_file():
        msg = f"{bundle} is no bundle: it has no configs/metadata.json."
        raise UserError(msg)
    return read_mapping(file)


def _inference(bundle: Path) -> dict[str, Any]:
    file = find_config(bundle, "inference")
    if file is None:
        msg = f"{bundle} has no configs/inference.json or .yaml: nothing could use the network."
        raise UserError(msg)
    return read_mapping(file)


def _spec(trained: Trained) -> tuple[dict[str, Any], nn.Module]:
    """Spec and network; gradient checkpointing, which saves memory in training alone, is off."""
    spec, network = make_spec(trained)
    if not spec["base"].get("use_checkpoint"):
        return spec, network
    spec["base"] = {**spec["base"], "use_checkpoint": False}
    plain = build_network(spec)
    plain.load_state_dict(network.state_dict(), strict=True)
    return spec, plain.eval()


def _patches(
    source: Path,
    inference: dict[str, Any],
    shape: tuple[int, ...],
    volumes: str | Path | None,
    proof: Proof,
) -> Patches:
    if volumes is None:  # phantoms are MRI; the bundle's preprocessing may want CT
        return noise_patches(shape, proof.patches)
    return load_patches(source, inference, shape, volumes, proof.patches)


def _copy(source: Path, stage: Path, former: Sequence[str]) -> None:
    """Every file but caches, runs inside the bundle, and other forms of its network."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        left_out = shutil.ignore_patterns(*_SKIPPED)(folder, names)
        left_out |= {n for n in names if RunFolder(Path(folder) / n).history_file.is_file()}
        if Path(folder) == source / "models":
            left_out |= {n for n in names if n.startswith(("model.", "model_")) or n in _OF_NETWORK}
            left_out |= {n for n in names if n in former}
        return left_out

    try:
        shutil.copytree(
            source,
            stage,
            ignore=ignored,
            copy_function=shutil.copyfile,
            ignore_dangling_symlinks=True,
            dirs_exist_ok=True,
        )
    except shutil.Error as error:
        msg = f"{source} cannot be copied: {str(error.args[0])[:200]}."
        raise UserError(msg) from None


def _write(stage: Path, plain: PlainNetwork) -> None:
    plain.write(stage)
    for name in _CONFIGS:
        file = find_config(stage, name)
        if file is not None:
            _replace_definition(file, plain)
            load_model_pt(file)
    _forget_large_files(stage)


def _replace_definition(file: Path, plain: PlainNetwork) -> None:
    """Put the new definition where the config has the old one, under its id and ``network_def``."""
    config, identifier = read_mapping(file), plain.trained.definition
    values: dict[str, Any] = {}
    if has_id(config, identifier) or "network_def" in config:
        values["network_def"] = plain.definition(config.get("network_def"))
    if identifier != "network_def" and has_id(config, identifier):
        values[identifier] = "@network_def"
    if values:
        replace_in_config(file, values)


def _write_metadata(stage: Path, metadata: dict[str, Any], plain: PlainNetwork) -> None:
    """The next version, with a line in the changelog; scores of the former weights go."""
    version = _next_version(str(metadata.get("version", "")))
    change = f"network replaced by a run of perforated_monai {__version__}"
    change += " with dendrites" if plain.record["dendrites"] else " without dendrites"
    if metadata.get("version"):
        change += f", from version {metadata['version']}"
    changelog = {version: change, **metadata.get("changelog", {})}
    new = {**metadata, "version": version, "changelog": changelog}
    plain.update_metadata(new)
    write_json(stage / "configs" / "metadata.json", new, indent=4)


def _next_version(version: str) -> str:
    head, dot, last = version.rpartition(".")
    return f"{head}{dot}{int(last) + 1}" if last.isdigit() else f"{version or '0.0.0'}.1"


def _forget_large_files(stage: Path) -> None:
    """A list that still names the former weights would bring them back."""
    file = large_files.list_of(stage)
    if file is None:
        return
    entries = large_files.read_large_files(stage)
    kept = [e for e in entries if not Path(e.path).name.startswith(("model.", "model_"))]
    file.unlink()
    if kept:
        write_text(stage / "large_files.yml", large_files.large_files_text(kept))
