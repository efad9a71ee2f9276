"""A stranger's bundle with what made bundles of the real zoo fail, all in one.

YAML; a network of its own code with a layer that no forward pass reaches; a score that is no Dice;
``"$@transforms"`` in a ``Compose``; and weights of another name than ``model.pt``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from helpers.foreign_parts import (
    FROM_ENGINE,
    crop,
    evaluate_config,
    inference_config,
    metadata_of,
    scaled,
    softmax,
    train_config,
)

NETWORK = {"_target_": "scripts.nets.Net", "width": 4}
CODE = '''"""A network of the bundle's own."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv3d(1, width, 3, padding=1)
        self.left_over = nn.Conv3d(width, width, 3, padding=1)  # never called
        self.last = nn.Conv3d(width, 2, 1)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
'''


def forget_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take off ``sys.path`` what ``ConfigWorkflow.run`` has left there, for one test."""
    files = ("nets.py", "__init__.py")  # another bundle's package would come first
    kept = [p for p in sys.path if not any((Path(p) / "scripts" / f).is_file() for f in files)]
    monkeypatch.setattr(sys, "path", kept)
    for name in [n for n in sys.modules if n.partition(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)


def odd(folder: Path) -> Path:
    """Write the bundle, without weights."""
    before = [
        {"_target_": "LoadImaged", "keys": ["image", "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
        scaled(),
        {"_target_": "EnsureTyped", "keys": ["image", "label"]},
    ]
    train = train_config(before, [crop(16, 16, 16)], softmax(2), NETWORK)
    iou = {"_target_": "MeanIoUHandler", "include_background": False}
    iou["output_transform"] = f"{FROM_ENGINE}(['pred', 'label'])"
    train["validate"]["key_metric"] = {"val_iou": iou}
    inference = inference_config(before, NETWORK, roi=(16, 16, 16))
    inference["transforms"] = inference["preprocessing"]["transforms"]
    inference["preprocessing"]["transforms"] = "$@transforms"
    inference["handlers"][0]["load_path"] = "$@bundle_root + '/models/odd_FT.pt'"
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir(parents=True)
    contents = {"train": train, "inference": inference, "evaluate": evaluate_config()}
    for name, content in contents.items():
        text = yaml.safe_dump(content, sort_keys=False)
        (folder / "configs" / f"{name}.yaml").write_text(text)
    channels = {"in_channels": 1, "out_channels": 2}
    metadata = metadata_of(channels, (16, 16, 16))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "nets.py").write_text(CODE)
    (folder / "LICENSE").write_text("Apache License, Version 2.0\n")
    (folder / "docs" / "README.md").write_text("# An odd bundle\n\nDice 0.99.\n")
    torch.save({}, folder / "models" / "odd_FT.pt")
    return folder
