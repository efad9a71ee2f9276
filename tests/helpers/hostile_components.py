"""Components of MONAI itself that would send, write or read where nobody expects it.

Each takes the address of a server and the path of a marker outside the bundle, and gives what is
put into ``inference.json``; ``before`` is a key that ``segment`` makes before any scan is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]

CSV = "monai.data.CSVDataset"
MAPPING = "WriteFileMapping"


def _spec(base: Any) -> Config:
    return {
        "_target_": "perforated_monai.build_network",
        "spec": {"format": 1, "base": base, "dendrites": {}},
    }


# hole -> three ways through it; each is the key "x", which the preprocessing requires.
HOLES: dict[str, list[Callable[[str, str], Config]]] = {
    "address": [
        lambda url, marker: {"x": {"_target_": CSV, "src": f"{url}/a.csv"}},
        lambda url, marker: {"place": url, "x": {"_target_": CSV, "src": "@place"}},
        lambda url, marker: {
            "scheme": url.split("//")[0],
            "x": {"_target_": CSV, "src": f"$@scheme + '//' + '{url.split('//')[1]}'"},
        },
    ],
    "mapping": [
        lambda url, marker: {"x": {"_target_": MAPPING, "mapping_file_path": marker}},
        lambda url, marker: {"x": {"_target_": MAPPING, "mapping_file_path": "../../ran.json"}},
        lambda url, marker: {
            "x": {"_target_": MAPPING, "mapping_file_path": f"$os.path.join('a', '{marker}')"},
            "imports": ["$import os"],
        },
    ],
    "output": [
        lambda url, marker: {"x": {"_target_": "SaveImaged", "keys": "a", "output_dir": marker}},
        lambda url, marker: {
            "x": {"_target_": "SaveImaged", "keys": "a", "output_postfix": "/../../../ran"}
        },
        lambda url, marker: {
            "x": {"_target_": "LogfileHandler", "output_dir": "$@start + 'tmp'"},
            "start": "/",
        },
    ],
    "requires": [
        lambda url, marker: {
            "x": {"_target_": "Identityd", "keys": "a", "_requires_": "@y"},
            "y": {"_target_": CSV, "src": url},
        },
        lambda url, marker: {
            "x": {
                "_target_": "Identityd",
                "keys": "a",
                "_requires_": [{"_target_": CSV, "src": url}],
            }
        },
        lambda url, marker: {
            "x": {"_target_": "Identityd", "keys": "a", "_requires_": f"$open('{marker}', 'w')"}
        },
    ],
    "disabled": [
        lambda url, marker: {"x": {"_target_": CSV, "src": url, "_disabled_": "false"}},
        lambda url, marker: {
            "x": {"_target_": CSV, "src": url, "_disabled_": "$torch.cuda.device_count() > 99"}
        },
        lambda url, marker: {
            "x": {"_target_": "Identityd", "keys": "a", "_disabled_": f"$open('{marker}', 'w')"}
        },
    ],
    "lambda": [
        lambda url, marker: {
            "x": {
                "_target_": "Lambdad",
                "keys": "image",
                "func": f"$lambda v: @save(v, filename='{marker}')",
            },
            "save": {"_target_": "SaveImage"},
        },
        lambda url, marker: {
            "x": {
                "_target_": "Lambdad",
                "keys": "image",
                "func": f"$lambda v: list(map(@save, [v], [{{}}], ['{marker}']))",
            },
            "save": {"_target_": "SaveImage"},
        },
        lambda url, marker: {
            "x": f"$@make('{url}/a.csv')",
            "make": {"_target_": CSV, "_mode_": "callable"},
        },
    ],
    "traversal": [
        lambda url, marker: {
            "x": {
                "_target_": "MetricsSaver",
                "save_dir": "a",
                "metrics": "*",
                "metric_details": {"../../../ran": 1},
            }
        },
        lambda url, marker: {"x": {"_target_": "LogfileHandler", "filename": "../../../ran.log"}},
        lambda url, marker: {"x": {"_target_": "CheckpointLoader", "load_path": "~/ran.pt"}},
    ],
    "other code": [
        lambda url, marker: {"x": {"_target_": "monai.data.VideoDataset", "video_source": url}},
        lambda url, marker: {"x": {"_target_": "TrtCompiler", "plan_path": "a.plan"}},
        lambda url, marker: {
            "x": {"_target_": "PersistentDataset", "data": [], "pickle_module": "evil"}
        },
    ],
    "spec": [
        lambda url, marker: {"x": _spec({"name": "scripts.evil.Net"})},
        lambda url, marker: {"x": _spec("@y"), "y": {"name": "scripts.evil.Net"}},
        lambda url, marker: {"x": _spec({"name": "$'scri' + 'pts.evil.Net'"})},
    ],
    "endless": [
        lambda url, marker: {"x": "$9**9**9"},
        lambda url, marker: {"x": "$len('a' * 10000000000)"},
        lambda url, marker: {"x": "$1 << 99999999999"},
    ],
}
EVERY = [(hole, k) for hole, ways in HOLES.items() for k in range(len(ways))]


def hostile(hole: str, way: int, url: str, marker: str) -> Config:
    """Keys that go into ``inference.json``."""
    return HOLES[hole][way](url, marker)
