"""Contents of a packed bundle that are hostile or broken, each with the rule that must find it."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.share_bundle import (
    INFERENCE,
    METADATA,
    MODEL,
    SPEC,
    TRAIN,
    Content,
    edit,
    in_metadata,
    put,
    put_weights,
    saved,
    weights_of,
)
from perforated_monai import build_network
from perforated_monai.bundle.record import RECORD


def spy(name: str = "ran") -> str:
    """Python code that leaves a file in the test's folder when somebody runs it."""
    return f"open({str(Path(tempfile.tempdir).parent / name)!r}, 'w').close()"


class Evil:
    """Pickled, it runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {Path(tempfile.tempdir).parent / 'ran'}",)


def inference(content: Content, **changes: object) -> str:
    return edit(content, INFERENCE, **changes)


def spec(content: Content, **changes: object) -> str:
    definition = {"_target_": "perforated_monai.build_network", "spec": SPEC | changes}
    return inference(content, network_def=definition)


def other_network(content: Content) -> str:
    base = SPEC["base"] | {"channels": [4, 16]}
    return put_weights(content, build_network({**SPEC, "base": base}).state_dict())


def changed_tensor(content: Content, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    state = weights_of(content[MODEL])
    name = next(iter(state))
    state[name] = change(state[name])
    return put_weights(content, state)


def repacked_weights(content: Content) -> str:
    """The tensors compressed: a bomb would look like that."""
    with zipfile.ZipFile(_file(content, MODEL)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    target = _file(content, MODEL)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return put(content, MODEL, target.read_bytes())


def _file(content: Content, path: str) -> Path:
    file = Path(tempfile.tempdir).parent / Path(path).name
    file.write_bytes(content[path])
    return file


def script() -> bytes:
    """A network as TorchScript."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), buffer)
    return buffer.getvalue()


def logging_conf(content: Content, old: str, new: str) -> str:
    text = content["configs/logging.conf"].decode()
    assert old in text
    return put(content, "configs/logging.conf", text.replace(old, new, 1))


def large_file(content: Content, path: str, url: str = "https://example.org/x") -> str:
    listed = [{"path": path, "url": url, "hash_val": "0" * 64, "hash_type": "sha256"}]
    return put(content, "large_files.yml", json.dumps({"large_files": listed}))


def in_package(content: Content, file: str, text: str = "") -> str:
    """Change a file of the package, or remove it; the finding names the package."""
    content.pop(file, None)
    if text:
        put(content, file, text)
    return "perforated_monai"


def _image(metadata: dict) -> dict:
    return metadata["network_data_format"]["inputs"]["image"]


def changed_weights_only(content: Content) -> str:
    state = weights_of(content[MODEL])
    return put(content, MODEL, saved({name: tensor + 1 for name, tensor in state.items()}))


def pickled() -> bytes:
    return pickle.dumps({"a": Evil()}, protocol=2)


NESTED = "[" * 5000 + "]" * 5000
LAUGHS = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"
CALL = "!!python/object/apply:os.system ['true']"
PAGE = "studies/results/x/report.html"
PACKAGE_FILE = "perforated_monai/networks/build.py"

# What breaks it -> (rule, how); the record always agrees with what was changed.
REFUSED: dict[str, tuple[str, Callable[[Content], str]]] = {
    "metadata absent": ("bundle-files", lambda c: c.pop(METADATA) and ""),
    "metadata without task": ("metadata-schema", lambda c: edit(c, METADATA, task=None)),
    "metadata with a number for text": ("metadata-schema", lambda c: edit(c, METADATA, authors=3)),
    "version without entry": ("changelog", lambda c: edit(c, METADATA, version="9.9.9")),
    "licence absent": ("bundle-files", lambda c: c.pop("LICENSE") and ""),
    "weights absent": ("bundle-files", lambda c: c.pop(MODEL) and ""),
    "weights of another network": ("weights", other_network),
    "weights with another hash": ("model-hash", changed_weights_only),
    "unknown spec format": ("network", lambda c: spec(c, format=99)),
    "spec asks for a billion channels": (
        "network",
        lambda c: spec(c, base=SPEC["base"] | {"channels": [4, 10**9]}),
    ),
    "spec asks for a million modules": (
        "network",
        lambda c: spec(c, base=SPEC["base"] | {"num_res_units": 10**6}),
    ),
    "strides of nothing": (
        "output-shape",
        lambda c: spec(c, base=SPEC["base"] | {"strides": [0]}) and METADATA,
    ),
    "metadata asks for a huge volume of other shape": (
        "output-shape",
        lambda c: in_metadata(
            c,
            lambda m: m["network_data_format"]["inputs"]["image"].update(spatial_shape=[10**5] * 3),
        ),
    ),
    "evil pickle in the weights": ("weights-file", lambda c: put_weights(c, {"a": Evil()})),
    "weights are a bare pickle": ("disguised", lambda c: put(c, MODEL, pickled())),
    "weights in the old form": (
        "disguised",
        lambda c: put_weights(c, {"a": Evil()}, _use_new_zipfile_serialization=False),
    ),
    "weights hold a whole module": (
        "weights-file",
        lambda c: put_weights(c, torch.nn.Linear(1, 1)),
    ),
    "weights are TorchScript": ("weights-file", lambda c: put(c, MODEL, script())),
    "weights are compressed": ("weights-file", repacked_weights),
    "weights are cut": ("weights-file", lambda c: put(c, MODEL, c[MODEL][:-4000])),
    "a tensor larger than its bytes": (
        "weights-file",
        lambda c: changed_tensor(c, lambda t: torch.zeros(1).expand(t.shape)),
    ),
    "a tensor with NaN": (
        "weights-file",
        lambda c: changed_tensor(
            c, lambda t: t.flatten().index_fill(0, torch.tensor([0]), torch.nan).reshape(t.shape)
        ),
    ),
    "more weights, evil": (
        "weights-file",
        lambda c: put(c, "models/dendrites.pt", saved({"a": Evil()})),
    ),
    "logging class is eval": ("logging", lambda c: logging_conf(c, "=StreamHandler", "=eval")),
    "logging class to a server": (
        "logging",
        lambda c: logging_conf(c, "=StreamHandler", "=handlers.SocketHandler"),
    ),
    "logging arguments are code": (
        "logging",
        lambda c: logging_conf(c, "(sys.stdout,)", f"({spy()},)"),
    ),
    "logging to a file elsewhere": (
        "logging",
        lambda c: logging_conf(
            c,
            "class=StreamHandler\nlevel=INFO\nformatter=fullFormatter\nargs=(sys.stdout,)",
            "class=FileHandler\nargs=('/etc/cron.d/x',)",
        ),
    ),
    "logging class for every section": (
        "logging",
        lambda c: logging_conf(c, "[loggers]", "[DEFAULT]\nclass=os.system\n[loggers]"),
    ),
    "logging formatter of its own": (
        "logging",
        lambda c: logging_conf(
            c, "[formatter_fullFormatter]", "[formatter_fullFormatter]\nclass=evil.F"
        ),
    ),
    "logging is not readable": ("logging", lambda c: put(c, "configs/logging.conf", "class=eval")),
    "yaml that calls": ("texts", lambda c: put(c, "configs/more.yaml", f"a: {CALL}\n")),
    "yaml that multiplies": ("texts", lambda c: put(c, "configs/more.yaml", LAUGHS)),
    "yaml nested deep": ("texts", lambda c: put(c, "configs/more.yaml", NESTED)),
    "yaml with a key twice": ("texts", lambda c: put(c, "configs/more.yaml", "a: 1\na: 2\n")),
    "json nested deep": ("texts", lambda c: put(c, "configs/more.json", NESTED)),
    "json with a key twice": ("texts", lambda c: put(c, "configs/more.json", '{"a": 1, "a": 2}')),
    "json in another code": ("texts", lambda c: put(c, "configs/more.json", b'{"a": "\xff"}')),
    "json of a million values": (
        "texts",
        lambda c: put(c, "configs/more.json", json.dumps({"a": [1] * 10**6})),
    ),
    "json too large": ("file-sizes", lambda c: put(c, "configs/more.json", b" " * 4_000_001)),
    "yaml too large": ("file-sizes", lambda c: put(c, "configs/more.yaml", b" " * 300_001)),
    "zip inside, as text": ("disguised", lambda c: put(c, "docs/a.md", b"PK\x03\x04more")),
    "zip inside, as itself": ("disguised", lambda c: put(c, "docs/a.zip", b"PK\x03\x04more")),
    "program as picture": ("disguised", lambda c: put(c, "docs/a.png", b"\x7fELF\x02\x01\x01")),
    "web page as picture": ("disguised", lambda c: put(c, "docs/a.png", b"<html></html>")),
    "pickle as text": ("disguised", lambda c: put(c, "docs/a.txt", pickled())),
    "large file outside": ("large-files", lambda c: large_file(c, "../outside.pt")),
    "large file by another way": (
        "large-files",
        lambda c: large_file(c, "models/big.pt", "file:///etc/passwd"),
    ),
    "large file of another hash": ("large-files", lambda c: large_file(c, MODEL) and MODEL),
    "record of an unknown format": ("record", lambda c: edit(c, RECORD, format=99)),
    "record that is no JSON": ("record", lambda c: put(c, RECORD, "format: 1")),
    "record without hashes": ("record", lambda c: edit(c, RECORD, files={"LICENSE": 3})),
    "file changed after packing": ("record", lambda c: put(c, TRAIN, c[TRAIN] + b" ")),
    "byte changed after packing": (
        "record",
        lambda c: put(c, "docs/README.md", c["docs/README.md"].replace(b"a", b"b", 1)),
    ),
    "file added after packing": ("record", lambda c: put(c, "docs/more.md", "more")),
    "file lost after packing": ("record", lambda c: c.pop("docs/README.md") and "docs/README.md"),
}

# The same for what --trust lets through.
FOREIGN: dict[str, tuple[str, Callable[[Content], str]]] = {
    "expression imports": ("expressions", lambda c: inference(c, x=f"$__import__('os').{spy()}")),
    "expression opens": ("expressions", lambda c: inference(c, x=f"${spy()}")),
    "expression in initialize": ("expressions", lambda c: edit(c, TRAIN, initialize=[f"${spy()}"])),
    "expression in yaml": (
        "expressions",
        lambda c: put(c, "configs/m.yaml", f'epochs: "${spy()}"'),
    ),
    "expression in the metadata": ("expressions", lambda c: edit(c, METADATA, more=f"${spy()}")),
    "expression beside the data": (
        "expressions",
        lambda c: put(c, "docs/more.json", json.dumps({"x": f"${spy()}"})),
    ),
    "expression in capitals": (
        "expressions",
        lambda c: put(c, "configs/MORE.JSON", json.dumps({"epochs": f"${spy()}"})),
    ),
    "import of a module": ("expressions", lambda c: inference(c, imports=["$import subprocess"])),
    "import of bundle code": ("expressions", lambda c: inference(c, imports=["$import evil"])),
    "target is a function of os": ("targets", lambda c: inference(c, x={"_target_": "os.system"})),
    "target is a builtin": ("targets", lambda c: inference(c, x={"_target_": "exec"})),
    "target of bundle code": ("targets", lambda c: inference(c, x={"_target_": "evil.Net"})),
    "target runs commands": ("targets", lambda c: inference(c, x={"_target_": "run_cmd"})),
    "target by another key": (
        "targets",
        lambda c: inference(c, **{"dataset::_target_": "os.system"}),
    ),
    "target by reference": ("targets", lambda c: inference(c, x={"_target_": "@y"}, y="os.system")),
    "target that fetches": ("targets", lambda c: inference(c, x={"_target_": "ResNetFeatures"})),
    "debugger": ("targets", lambda c: inference(c, x={"_target_": "UNet", "_mode_": "debug"})),
    "reader by name": (
        "arguments",
        lambda c: inference(
            c, x={"_target_": "LoadImaged", "keys": "image", "reader": "os.system"}
        ),
    ),
    "reader by override": (
        "arguments",
        lambda c: put(c, "configs/m.yaml", "train::deterministic_transforms::0::reader: exec\n"),
    ),
    "unpickling allowed": (
        "arguments",
        lambda c: inference(c, x={"_target_": "PersistentDataset", "weights_only": False}),
    ),
    "weights from an address": (
        "arguments",
        lambda c: inference(c, x={"_target_": "HoverNet", "pretrained_url": "http://evil"}),
    ),
    "output outside the bundle": (
        "paths",
        lambda c: inference(c, x={"_target_": "SaveImaged", "keys": "a", "output_dir": "/etc"}),
    ),
    "a module by reference": (
        "module-references",
        lambda c: inference(c, imports=["$import os"], x="$@imports::0.replace('a', 'b')"),
    ),
    "macro of another file": ("macros", lambda c: inference(c, x="%/etc/evil.json::x")),
    "code of its own": ("file-kinds", lambda c: put(c, "scripts/evil.py", spy())),
    "code that shadows torch": ("file-kinds", lambda c: put(c, "torch.py", spy())),
    "compiled code": ("file-kinds", lambda c: put(c, "configs/evil.pyc", "x")),
    "a library": ("file-kinds", lambda c: put(c, "models/evil.so", "x")),
    "a scan": ("file-kinds", lambda c: put(c, "docs/patient.nii", "x")),
    "page": ("file-kinds", lambda c: put(c, PAGE, "<p>scores</p>")),
    "drawing": ("file-kinds", lambda c: put(c, "docs/a.svg", "<svg/>")),
    "TorchScript": ("file-kinds", lambda c: put(c, "models/model.ts", script())),
    "TorchScript under another name": ("file-kinds", lambda c: put(c, "docs/a.ts", script())),
    "pt2 program": ("file-kinds", lambda c: put(c, "models/model.pt2", "x")),
    "package changed": ("package", lambda c: in_package(c, PACKAGE_FILE, "x = 1")),
    "package with more": ("package", lambda c: in_package(c, "perforated_monai/evil.py", spy())),
    "package with less": ("package", lambda c: in_package(c, PACKAGE_FILE)),
    "package with bytecode": (
        "package",
        lambda c: in_package(c, "perforated_monai/__pycache__/x.pyc", "x"),
    ),
    "network that is not built": (
        "network",
        lambda c: inference(c, network_def={"_target_": "SENet154", "pretrained": False}),
    ),
}
