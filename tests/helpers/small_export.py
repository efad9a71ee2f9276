"""A folder that formats are written from."""

import json
from pathlib import Path

import torch
from torch import nn


def bundle_for(folder: Path, spec: dict, network: nn.Module, x: torch.Tensor) -> Path:
    """What a format is written from: weights, metadata and an inference config."""
    (folder / "models").mkdir()
    (folder / "configs").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": definition}))
    image = {"num_channels": x.size(1), "spatial_shape": list(x.shape[2:])}
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"num_channels": 3}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    return folder
