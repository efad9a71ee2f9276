"""create_workflow of inference.json from a foreign folder: masks of a folder of volumes.

workflow.py BUNDLE VOLUMES MASKS
"""

import sys

from monai.bundle import create_workflow

bundle, volumes, masks = sys.argv[1:]
made = create_workflow(
    "ConfigWorkflow",
    config_file=f"{bundle}/configs/inference.json",
    workflow_type="inference",
    bundle_root=bundle,
    dataset_dir=volumes,
    output_dir=masks,
    logging_file=False,
)
assert made.check_properties() in (None, [])
made.run()
made.finalize()
assert "perforatedai" not in sys.modules
