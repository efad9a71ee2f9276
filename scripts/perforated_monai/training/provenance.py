"""``config.json``: the merged configuration of a run with versions and hashes."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..data.reading import from_json, read
from ..errors import UserError
from ..files import sha256, write_json
from .trained_on import TrainedOn, is_record

# Settings that change how fast a run goes or where it is logged, never what comes out of it.
_NO_RESULT = {
    "num_workers",
    "persistent_workers",
    "prefetch_factor",
    "pin_memory",
    "progress",
    "cache_dir",
    "crops_dir",
    "crops_gb",
    "process_group_timeout",
    # Tells RunHandler where the configuration is; it is no part of what the configuration says.
    "run_config",
    # Written by MONAI for --tracking; the first holds the time of the start.
    "save_execute_config",
    "tracking_uri",
    "experiment_name",
    "run_name",
}


NO_CONFIG = (
    "RunHandler sees no configuration, so it could neither continue this run nor export its "
    "network. Give it run_config: '$perforated_monai.merged_config()' in train::handlers, or in a "
    "program a mapping of what the run is made from."
)

# Where things lie: another machine has them elsewhere, and a run folder may be moved. Where the
# manifest is known, its hash says whether the data are the same.
_PLACES = {"output_dir", "bundle_root"}
_DATA_PLACES = {"dataset_dir", "manifest"}


@dataclass(frozen=True)
class Provenance:
    """What a run was made from."""

    config: dict[str, Any]
    versions: dict[str, str]
    manifest_sha256: str | None
    generator: dict[str, Any] | None = None  # of the manifest: what made synthetic volumes
    data: TrainedOn | None = None  # None in runs from before it was kept

    def write(self, file: Path) -> None:
        """Write as JSON."""
        write_json(file, self.__dict__)

    @classmethod
    def read(cls, file: Path) -> Provenance:
        """Read what ``write`` wrote.

        Raises:
            UserError: for a file that is missing or damaged.
        """
        try:
            stored = read(file)
            config, versions = stored["config"], stored["versions"]
            generator, data = stored.get("generator"), stored.get("data")
            if (
                not isinstance(config, dict)
                or not isinstance(versions, dict)
                or not is_record(data)
            ):
                raise TypeError
            return cls(config, versions, stored["manifest_sha256"], generator, data)
        except FileNotFoundError:
            msg = f"{file.parent} is no run folder: it has no {file.name}. "
            msg += "Give the output_dir of a training."
            raise UserError(msg) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            msg = f"{file} is damaged ({type(error).__name__}). Train anew."
            raise UserError(msg) from None


def provenance(config: dict[str, Any], data: TrainedOn | None = None) -> Provenance:
    """Collect the versions of what computes, and the hash of the manifest the config names."""
    names = ["torch", "monai", "numpy", "nibabel", "pytorch-ignite", "perforatedai"]
    versions = {"perforated-monai": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    manifest = _manifest(config)
    if manifest is None:
        return Provenance(_plain(config), versions, None, data=data)
    return Provenance(_plain(config), versions, sha256(manifest), _generator(manifest), data)


def refuse_other_config(file: Path, config: dict[str, Any]) -> None:
    """Refuse to continue a run under a configuration that would give another result.

    Raises:
        UserError: naming the first keys that differ, or where there is nothing to compare.
    """
    if not config:
        raise UserError(NO_CONFIG)
    if not file.exists():
        msg = (
            f"{file.parent} holds a run without its {file.name}, so nothing says whether this "
            "configuration is the run's. Put the file back, or choose another output_dir."
        )
        raise UserError(msg)
    written = Provenance.read(file)
    before, now = _flat(written.config), _flat(_plain(config))
    may_differ, manifest = set(_PLACES), _manifest(config)
    if manifest is not None and sha256(manifest) == written.manifest_sha256:
        may_differ |= _DATA_PLACES
    keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    keys = [k for k in keys if k not in may_differ and k.split("::")[-1] not in _NO_RESULT]
    if keys:
        shown = "; ".join(f"{k}: {before.get(k)!r} then, {now.get(k)!r} now" for k in keys[:3])
        msg = (
            f"{file.parent} holds a run of another configuration ({shown}). "
            "Give the same values to continue it, or another output_dir."
        )
        raise UserError(msg)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A value as JSON has it; an object that a program put there becomes its type's name."""
    return json.loads(json.dumps(config, default=lambda value: type(value).__name__))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}::{key}" if prefix else str(key))
    return flat


def _manifest(config: dict[str, Any]) -> bytes | None:
    """Content of the manifest that a config names as a file."""
    manifest = config.get("manifest")
    if not isinstance(manifest, str):
        return None
    below_root = re.fullmatch(r"""\$@bundle_root\s*\+\s*(['"])(.+)\1""", manifest)
    if below_root is not None:
        manifest = str(config.get("bundle_root", ".")) + below_root[2]
    path = Path(manifest)
    return path.read_bytes() if path.is_file() else None


def _generator(manifest: bytes) -> dict[str, Any] | None:
    try:
        content = from_json(manifest)
    except ValueError:
        return None
    generator = content.get("generator") if isinstance(content, dict) else None
    return generator if isinstance(generator, dict) else None
