"""``segment`` imports what it needs: nothing of training, studies or plotting of ours."""

from __future__ import annotations

import json
import subprocess
import sys

from helpers.segment_bundle import blocks, make_rounding_bundle, save

# What may not be there when a folder was segmented. MONAI itself imports matplotlib and optuna
# where they are installed, so of other packages those are named that it does not import.
NOT_OURS = ("perforatedai", "openvino_telemetry", "wandb", "highdicom", "nnunetv2")
# The bundle is not known, so it is judged first: bundle.verify and bundle.check belong to that.
ROOMS = ("training", "growth", "study", "export", "bundle.pack", "bundle.check")
ROOMS += ("bundle.card", "bundle.overlay", "inference.segment.page", "inference.segment.preview")
ROOMS += ("data.cache", "data.crops", "data.dataset", "data.affine_crop")
PROGRAM = """
import json, sys
import monai
with_monai = set(sys.modules)
from perforated_monai.commands.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(set(sys.modules) - with_monai), sorted(with_monai)]))
"""


def test_segment_imports_nothing_of_training_studies_or_plotting(tmp_path) -> None:
    bundle = make_rounding_bundle(tmp_path / "b")
    save(tmp_path / "in" / "a.nii.gz", blocks())
    command = ["segment", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(bundle)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *command, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=True,
    )
    code, ours, with_monai = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    rooms = tuple(f"perforated_monai.{room}" for room in ROOMS)
    assert "perforated_monai.inference.segment.case" in ours
    assert [n for n in ours if n.startswith(rooms)] == []
    assert [n for n in (*ours, *with_monai) if n.startswith(NOT_OURS)] == []
    plotting = ("matplotlib", "seaborn", "PIL", "optuna", "pandas", "tensorboard", "ignite")
    assert [n for n in ours if n.split(".")[0] in plotting] == []


def test_monai_s_components_are_listed_once(tmp_path) -> None:
    """MONAI lists them for each parser, which took a sixth of a second each, and a thread."""
    from perforated_monai.inference.segment import components, load

    bundle = load.load_bundle(make_rounding_bundle(tmp_path / "b"))
    bundle.pipeline()
    table = components._components._components_table
    assert table is not None and "SlidingWindowInferer" in table
    bundle.pipeline()
    assert components._components._components_table is table
    sys.modules["monai.of_this_test"] = json  # more modules, so it is made again
    try:
        bundle.pipeline()
        assert components._components._components_table is not table
    finally:
        del sys.modules["monai.of_this_test"]
