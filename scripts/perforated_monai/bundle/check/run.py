"""``check_bundle``: everything that is wrong with a bundle, without running any of its code."""

from __future__ import annotations

from pathlib import Path

from ...rules import Finding, Rule, run, worst_first
from . import config_rules as config
from . import large_rules as large
from . import metadata_rules as metadata
from . import network_rules as network
from .files import BundleFiles, read_bundle

# A rule that is not named here is not run: not by `check`, not by `pack`, not by `verify`.
BUNDLE_RULES: tuple[Rule, ...] = (
    large.large_files,
    config.bundle_files,
    config.whole_export,
    config.config_syntax,
    config.required_ids,
    config.property_references,
    config.references,
    config.override_keys,
    config.bundle_manifest,
    config.network_def,
    metadata.metadata_schema,
    metadata.changelog,
    network.network,
    network.weights,
    network.model_hash,
    network.output_shape,
    network.roi_strides,
)


def check_bundle(folder: str | Path) -> list[Finding]:
    """List everything that is wrong with a bundle, worst first.

    No expression of its configs is evaluated; only a network that is a spec of ours, or a MONAI
    network with plain arguments, is built, without memory for its weights.

    Raises:
        UserError: no folder, or none with `configs/`.
    """
    return check_files(read_bundle(folder))


def check_files(bundle: BundleFiles, most: int | None = None) -> list[Finding]:
    """The same of files that were read; `most` findings of one rule."""
    return worst_first(run(BUNDLE_RULES, "", bundle, most=most, foreign=True))
