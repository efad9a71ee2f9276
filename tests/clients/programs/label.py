"""MONAI Label: its own inference task on a bundle, as its monaibundle app runs it.

label.py BUNDLE VOLUME OUT: prints the file that MONAI Label wrote.
"""

import json
import shutil
import sys

from monailabel.tasks.infer.bundle import BundleInferTask

bundle, volume, out = sys.argv[1:]
task = BundleInferTask(bundle, {"model_dir": bundle}, load_strict=True)
assert task.is_valid()
file, found = task({"image": volume, "device": "cpu", "result_extension": ".nii.gz"})
shutil.move(file, out)
print(json.dumps({"labels": found.get("label_names"), "name": task.description}))
assert "perforatedai" not in sys.modules
