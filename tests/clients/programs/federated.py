"""Two federated rounds by MonaiAlgo: initialize, train, get_weights, evaluate.

federated.py BUNDLE DATA OUT [more train configs]
"""

import json
import sys

import torch
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks.utils import get_state_dict

bundle, data, out, *more = sys.argv[1:]
changes = {
    "dataset_dir": data,
    "manifest": f"{data}/manifest.json",
    "output_dir": out,
    "roi_size": [16, 16, 16],
    "val_roi_size": [48, 64, 48],
    "device": "$torch.device('cpu')",
}
algo = MonaiAlgo(
    bundle_root=bundle,
    config_train_filename=["configs/train.json", *more],
    train_kwargs=dict(changes),
    eval_kwargs=dict(changes),
)
algo.initialize(extra={ExtraItems.CLIENT_NAME: "site", ExtraItems.APP_ROOT: ""})
assert "perforatedai" not in sys.modules
spec = ConfigParser.load_config_files(f"{bundle}/configs/train.json")["network_def"]["spec"]
shared = torch.load(f"{bundle}/models/model.pt", weights_only=True)
assert set(get_state_dict(algo.trainer.network)) == set(shared), "not the committed network"
driven: set[str] = set()  # a squeeze-and-excitation whose hidden units died has no gradient
for name, parameter in algo.trainer.network.named_parameters():
    parameter.register_hook(lambda g, n=name: driven.add(n) if g.abs().sum() > 0 else None)
moved, of = [], []
for _ in range(2):
    driven.clear()
    algo.train(ExchangeObject(weights=shared))
    difference = algo.get_weights().weights
    assert set(difference) == set(shared), "not all variables came back"
    moved.append(sorted(n for n, d in difference.items() if d.abs().sum() > 0))
    of.append(sorted(driven))
    shared = {k: shared[k] + difference[k] for k in shared}
metrics = algo.evaluate(ExchangeObject(weights=shared)).metrics
algo.finalize()
print(json.dumps({"moved": moved, "of": of, "dice": metrics["val_mean_dice"]}))
assert spec["dendrites"]
