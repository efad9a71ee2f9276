"""``plan.yaml``: a plan as an overlay that training takes, each value with its reason."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..files import refuse_foreign, write_text
from .fingerprint import Fingerprint
from .manifest import Manifest
from .plan import ANISOTROPY, MOST_CHANNELS, SHARE_OF_DATA, Plan

_MARK = "# A plan of perforated-monai"


def write_plan(plan: Plan, fingerprint: Fingerprint, manifest: Manifest, out: str | Path) -> str:
    """Write the overlay, whole or not at all, and return its text.

    Raises:
        UserError: a file at `out` that is no plan, or a place that cannot be written.
    """
    expect_plan(out)
    text = overlay_text(plan, fingerprint, manifest)
    write_text(Path(out).expanduser(), text)
    return text


def expect_plan(out: str | Path) -> None:
    """Refuse a place for a plan before any volume is read.

    Raises:
        UserError: a file that is no plan, or another ending than MONAI reads overlays by.
    """
    if Path(out).suffix not in (".yaml", ".yml"):
        msg = f"a plan must be a .yaml file, which training takes as a config file; got {out}."
        raise UserError(msg)
    refuse_foreign(out, "plan", [_MARK])


def overlay_text(plan: Plan, fingerprint: Fingerprint, manifest: Manifest) -> str:
    """The overlay with its comments."""
    levels = "\n".join(
        f"  - {row}{' ' * 4}# {why}" for row, why in zip(plan.strides, plan.halvings, strict=True)
    )
    channels, classes = len(fingerprint.intensities), fingerprint.classes
    needed, memory = plan.bytes_needed / 2**30, plan.memory / 2**30
    return f"""\
{_MARK} from {fingerprint.read} of {fingerprint.cases} training cases of {manifest.name},
# by the rules of nnU-Net's planner, for MONAI's UNet. It is where to begin, and nothing was tuned.
# Training takes it behind train.json:
#   --config_file "['configs/train.json', 'plan.yaml']"
# Some things stand at several places of train.json and are not set here: input channels
# ({channels}, base_network_def::in_channels) and label values ({classes}, out_channels and the
# classes of the postprocessing).

{_spacing_text(plan)}

# Voxels of a training crop and of the sliding windows: a cube in mm as far as the median case
# reaches ({_by(plan.median)} voxels without its border of 0), less where memory ends. Multiples of
# {_by(plan.multiples)} (the strides), since a UNet joins levels of equal size.
roi_size: {plan.roi_size}

# At least 2: the gradient of one crop is noisy. At most what memory holds (about {needed:.1f} of
# {memory:.1f} GiB here), and {SHARE_OF_DATA:.0%} of all voxels.
batch_size: {plan.batch_size}

# A level halves an axis that has 8 voxels or more. An axis with thick voxels waits until the
# others are within a factor of 2 of it: a stride there would join slices that lie far apart.
base_network_def::strides:
{levels}

# Twice as many at half the resolution, {MOST_CHANNELS} at the most. Fewer train faster, and are
# often as good.
base_network_def::channels: {plan.channels}
"""


def _spacing_text(plan: Plan) -> str:
    shown = ", ".join(f"{mm:g}" for mm in plan.spacing)
    if plan.given:
        return (
            f"# Spacing: [{shown}] mm was given, for the headers do not hold it. Nothing can be\n"
            "# resampled by them: take Spacingd out of train.json and inference.json."
        )
    ratio = max(plan.spacing) / min(plan.spacing)
    thick = (
        f"\n# (voxels are {ratio:.1f} times as long on one axis, which has the 10th percentile)"
        if ratio > ANISOTROPY
        else ""
    )
    return (
        f"# Spacing: resample to [{shown}] mm, the median of the cases{thick}.\n"
        "# It is `pixdim` of Spacingd in train.json and inference.json alike. Masks are brought\n"
        "# back to the scan's own grid."
    )


def _by(values: list[int]) -> str:
    return " x ".join(map(str, values))
