"""monai.bundle.load and create_workflow of a bundle, from a folder that is not its own.

load.py FOLDER NAME KIND OUT: KIND is train, inference or ts. Writes the network's output on a fixed
input to OUT and prints what MONAI logged about the weights.
"""

import logging
import sys
from pathlib import Path

import torch
from monai.bundle import load

folder, name, kind, out = sys.argv[1:]
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
options = {"load_ts_module": True} if kind == "ts" else {"workflow_type": kind}
network = load(name, bundle_dir=folder, source="monaihosting", **options)
network = network[0] if isinstance(network, tuple) else network
assert isinstance(network, torch.nn.Module), f"load gave {type(network).__name__}"
for blocked in ("perforatedai", *(["perforated_monai"] if kind == "ts" else [])):
    assert blocked not in sys.modules, blocked
x = torch.randn(2, 1, 32, 48, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(network.eval()(x), out)
if "perforated_monai" in sys.modules:
    print("code from", Path(sys.modules["perforated_monai"].__file__).parent)
