"""The files of a bundle as a check reads them: parsed, and nothing of them run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...data.reading import ENDINGS, read, reason_of
from ...errors import UserError
from .meta_network import NetworkOrReason, build

WORKFLOWS = {"train": "train", "inference": "infer"}  # file name -> MONAI's workflow type


@dataclass
class BundleFiles:
    """The files of a bundle, parsed and never evaluated.

    Attributes:
        root: bundle folder, resolved.
        configs: file relative to the root -> content, of every JSON or YAML file in `configs/`.
        broken: file -> why it cannot be parsed, with the line.
    """

    root: Path
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, Any]:
        """`configs/metadata.json`; empty where there is none."""
        return self.configs.get("configs/metadata.json", {})

    @property
    def manifests(self) -> list[str]:
        """Files that are data manifests."""
        return [file for file, content in self.configs.items() if "schema_version" in content]

    def file_of(self, workflow: str) -> str:
        """Config file of "train" or "inference", or ""."""
        files = (f"configs/{workflow}{ending}" for ending in ENDINGS)
        return next((file for file in files if file in self.configs), "")

    @property
    def overlays(self) -> list[str]:
        """Configs that are merged on `train`: all but workflows, metadata and lists of data."""
        known = {"configs/metadata.json", *self.manifests, *map(self.file_of, WORKFLOWS)}
        known |= {file for file, content in self.configs.items() if _is_datalist(content)}
        return [file for file in self.configs if file not in known]

    @cached_property
    def network(self) -> NetworkOrReason:
        """The network of the inference config, or else of the train config, on the meta device."""
        return build(self.definition)

    @property
    def definition(self) -> dict[str, Any]:
        """`network_def` of the inference config, or else of the train config."""
        for workflow in reversed(WORKFLOWS):
            definition = self.configs.get(self.file_of(workflow), {}).get("network_def")
            if isinstance(definition, dict) and definition:
                return definition
        return {}

    @property
    def base(self) -> dict[str, Any]:
        """Class name and arguments of the network, where they are written out."""
        spec = self.definition.get("spec")
        base = spec.get("base") if isinstance(spec, dict) else self.definition
        return base if isinstance(base, dict) else {}


def read_bundle(folder: str | Path) -> BundleFiles:
    """Parse every config file of a bundle."""
    root = Path(folder).expanduser().resolve()
    if not (root / "configs").is_dir():
        msg = f"{folder} must be a bundle, with a folder configs. Correct the path."
        raise UserError(msg)
    bundle = BundleFiles(root)
    for path in sorted((root / "configs").iterdir()):
        if path.suffix in ENDINGS and not path.name.startswith("."):
            name = path.relative_to(root).as_posix()
            try:
                bundle.configs[name] = _parse(path)
            except (OSError, ValueError) as error:
                bundle.broken[name] = reason_of(error)
    return bundle


def _parse(path: Path) -> dict[str, Any]:
    data = read(path)
    if not isinstance(data, dict):
        msg = f"{type(data).__name__} at the top, not a mapping"
        raise ValueError(msg)
    return data


def _is_datalist(content: dict[str, Any]) -> bool:
    """Cases as MSD and the zoo list them: `{"training": [{"image": ...}]}`."""
    lists = [cases for cases in content.values() if isinstance(cases, list)]
    return any(isinstance(case, dict) and "image" in case for cases in lists for case in cases)
