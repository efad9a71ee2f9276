"""MONAI Label's own inference task on a bundle, as its monaibundle app runs it.

label.py BUNDLE VOLUME OUT: prints the labels it offers.
"""

import json
import shutil
import sys

import torch

try:
    import torchvision
except RuntimeError:
    # A torch and a torchvision of different builds (CPU and CUDA): its compiled operators are
    # missing, and it registers fake ones for them. What monailabel uses of it is plain Python.
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

from monailabel.tasks.infer.bundle import BundleInferTask

bundle, volume, out = sys.argv[1:]
task = BundleInferTask(bundle, {}, load_strict=True)
assert task.is_valid()
file, found = task({"image": volume, "device": "cpu", "result_extension": ".nii.gz"})
shutil.move(file, out)
assert "perforatedai" not in sys.modules
print(json.dumps({"labels": list(task.labels), "found": sorted(found)}))
