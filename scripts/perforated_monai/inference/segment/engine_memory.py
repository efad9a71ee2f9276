"""The engine that ``auto`` chose for a bundle on this machine, kept between runs."""

from __future__ import annotations

import contextlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ...errors import UserError
from ...files import sha256, write_json
from ...networks.agreement import machine
from .pipeline import Bundle

_PACKAGES = ("torch", "openvino", "nncf", "onnxruntime", "torch_tensorrt")
_MOST = 100


def read_choice(bundle: Bundle, device: torch.device) -> str:
    """The engine chosen before; "" without one."""
    found = _all().get(_key(bundle, device), "")
    return found if isinstance(found, str) else ""


def write_choice(bundle: Bundle, device: torch.device, name: str) -> None:
    """Keep a choice; where the cache folder cannot be written it is made again the next time."""
    choices = {**_all(), _key(bundle, device): name}
    with contextlib.suppress(OSError, UserError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), dict(list(choices.items())[-_MOST:]))


def _file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "perforated-monai" / "engines.json"


def _all() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(bundle: Bundle, device: torch.device) -> str:
    """Hash of what the speed and the labels of engines depend on."""
    parts = (bundle.weights_sha256, bundle.config_sha256, machine(), str(device))
    return sha256(repr((*parts, [(p, _version(p)) for p in _PACKAGES])).encode())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
