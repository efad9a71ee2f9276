"""What is not packed: a bundle with errors, a kill, a place that is taken."""

from __future__ import annotations

import importlib.metadata
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import monai.bundle
import pytest
import torch

import perforated_monai
from helpers.share_bundle import (
    METADATA,
    MODEL,
    SPEC,
    TOP,
    TRAIN,
    VERSION,
    change,
    read_zip,
    small_bundle,
)
from perforated_monai import UserError, build_network
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.bundle.pack.requirements import ALWAYS, KNOWN, PUBLIC_NAMES, stamped
from perforated_monai.bundle.verify.verify import verify
from perforated_monai.commands.main import main
from perforated_monai.files import sha256

IMPORTS_OF_PUBLIC_NAMES = """
import builtins, importlib, json, sys
import monai, torch
from perforated_monai._public import MODULES, NAMES

plain_import, imported, found = builtins.__import__, set(), {}

def spy(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and (globals or {}).get("__name__", "").startswith("perforated_monai"):
        imported.add(name.split(".")[0])
    return plain_import(name, globals, locals, fromlist, level)

builtins.__import__ = spy
for name in (*NAMES, *MODULES):
    for module in [m for m in sys.modules if m.split(".")[0] == "perforated_monai"]:
        del sys.modules[module]
    imported.clear()
    vars(getattr(importlib.import_module("perforated_monai"), name))
    found[name] = sorted(imported - sys.stdlib_module_names - {"perforated_monai"})
print(json.dumps(found))
"""


OF_EVERY_BUNDLE = {"torch", "monai", "numpy"}  # metadata.json has a key for each


def test_public_names_need_what_they_import():
    """The constant, compared with what our modules import in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_OF_PUBLIC_NAMES], capture_output=True, text=True, check=True
    )
    distributions = importlib.metadata.packages_distributions()
    for name, modules in json.loads(done.stdout.splitlines()[-1]).items():
        packages = {distributions[m][0].lower() for m in modules if m not in OF_EVERY_BUNDLE}
        assert packages - {*ALWAYS} == {*PUBLIC_NAMES.get(name, ())}, name
    assert {*KNOWN} >= {package for packages in PUBLIC_NAMES.values() for package in packages}
    assert PUBLIC_NAMES.keys() <= perforated_monai._public.NAMES.keys()


def test_stamping_keeps_what_it_does_not_know():
    metadata = {"required_packages_version": {"einops": "1", "scikit-learn": "2", "fire": "3"}}
    made = stamped(metadata, {}, yaml=True)
    installed = importlib.metadata.version
    assert made["required_packages_version"] == {
        "scikit-learn": "2",
        "fire": "3",
        "nibabel": installed("nibabel"),
        "pytorch-ignite": installed("pytorch-ignite"),
        "pyyaml": installed("pyyaml"),
    }
    assert made["optional_packages_version"] == {"einops": "1"}
    assert stamped(made, {}, yaml=True) == made


def without_changelog(root: Path) -> None:
    metadata = json.loads((root / METADATA).read_text())
    del metadata["changelog"]
    (root / METADATA).write_text(json.dumps(metadata))


def other_weights(root: Path) -> None:
    state = torch.load(root / MODEL, weights_only=True)
    state.popitem()
    torch.save(state, root / MODEL)
    change(root / "models/network.json", model_sha256=sha256((root / MODEL).read_bytes()))


def link(root: Path) -> None:
    (root / "docs" / "more.md").symlink_to(root / "LICENSE")


def linked_folder(root: Path) -> None:
    shutil.move(root / "docs", root.parent / "docs")
    (root / "docs").symlink_to(root.parent / "docs")


REFUSED = {
    "must describe its version": lambda r: change(r / METADATA, version="9.9.9"),
    f"no entry {VERSION}": without_changelog,
    "must follow MONAI's schema": lambda r: change(r / METADATA, authors=3),
    "does not fit this network": other_weights,
    "is a link": link,
    "docs is a link": linked_folder,
    "one file where upper and lower": lambda r: (r / "docs" / "readme.MD").write_text("x"),
    "a name that every system": lambda r: (r / "docs" / "a:b.md").write_text("x"),
    "verify would refuse it": lambda r: (r / "docs" / "a.png").write_bytes(b"PK\x03\x04"),
    "must hold LICENSE": lambda r: (r / "LICENSE").unlink(),
    "must refer to IDs": lambda r: change(r / TRAIN, more="@nowhere"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_bundle_with_errors_is_not_packed(said, bundle, tmp_path, capsys):
    REFUSED[said](bundle)
    out = tmp_path / "out"
    out.mkdir()
    (out / "packed.zip").write_bytes(b"before /packed.json")
    assert main(["pack", str(bundle), str(out / "packed.zip")]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [f.name for f in out.iterdir()] == ["packed.zip"]
    assert (out / "packed.zip").read_bytes() == b"before /packed.json"


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("packed.tar", {}, "must be a .zip file"),
        ("packed.zip", {"url_base": "ftp://x"}, "must begin with https://"),
        ("nowhere/packed.zip", {}, "Cannot write"),
    ],
)
def test_wrong_targets_are_refused(out, options, said, bundle, tmp_path):
    with pytest.raises(UserError, match=said):
        pack_bundle(bundle, tmp_path / out, **options)


def test_a_name_that_no_zip_should_have_is_refused(bundle, tmp_path):
    shutil.move(bundle, tmp_path / "my bundle")
    with pytest.raises(UserError, match="letters, digits"):
        pack_bundle(tmp_path / "my bundle", tmp_path / "packed.zip")


def test_a_full_disk_leaves_nothing(bundle, tmp_path, full_disk):
    said = full_disk(lambda: pack_bundle(bundle, tmp_path / "packed.zip"), 100_000)
    assert "Cannot write" in said
    assert [f.name for f in tmp_path.iterdir()] == [TOP]


def test_the_command_says_what_it_wrote(bundle, tmp_path, capsys):
    assert main(["pack", str(bundle), str(tmp_path / "packed.zip")]) == 0
    shown = capsys.readouterr().out
    assert sha256((tmp_path / "packed.zip").read_bytes()) in shown


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A bundle whose weights have 26 MB, and a picture as large."""
    root = small_bundle(tmp_path_factory.mktemp("large"))
    spec = {**SPEC, "base": SPEC["base"] | {"channels": [480, 500]}}
    definition = {"_target_": "perforated_monai.build_network", "spec": spec}
    for name in ("train", "evaluate", "inference"):
        change(root / "configs" / f"{name}.json", network_def=definition)
    torch.save(build_network(spec).state_dict(), root / MODEL)
    assert 25_000_000 < (root / MODEL).stat().st_size < 40_000_000
    change(root / "models/network.json", **spec, model_sha256=sha256((root / MODEL).read_bytes()))
    return root


@pytest.fixture
def server(large) -> str:
    """Address of an HTTP server of the bundle's folder on this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(large))
    handler.log_message = lambda *_: None
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_large_files_move_out_and_come_back_by_monai(large, server, tmp_path):
    packed = pack_bundle(large, tmp_path / "packed.zip", url_base=f"{server}/")
    content = read_zip(packed.file)
    assert MODEL not in content and packed.size < 3_000_000
    assert any(f"put it at {server}/{MODEL}" in note for note in packed.notes)
    verdict = verify(packed.file)
    assert not verdict.broken and not verdict.foreign
    assert [(f.rule, f.severity) for f in verdict.findings] == [("bundle-files", "warning")]

    with zipfile.ZipFile(packed.file) as archive:
        archive.extractall(tmp_path)
    monai.bundle.download_large_files(str(tmp_path / TOP))
    assert (tmp_path / TOP / MODEL).read_bytes() == (large / MODEL).read_bytes()
    assert verify(tmp_path / TOP).findings == []

    other = build_network(SPEC).state_dict()
    torch.save(other, tmp_path / TOP / MODEL)
    assert "large-files" in {f.rule for f in verify(tmp_path / TOP).findings}


def test_without_an_address_large_files_stay_and_it_is_said(large, tmp_path):
    packed = pack_bundle(large, tmp_path / "packed.zip")
    assert MODEL in read_zip(packed.file)
    assert any("25 MB" in note and "--url-base" in note for note in packed.notes)
    assert verify(packed.file).findings == []


def test_an_address_that_the_bundle_names_is_kept(large, tmp_path):
    root = shutil.copytree(large, tmp_path / TOP)
    entry = {"path": MODEL, "url": "https://example.org/w.pt"}
    (root / "large_files.yml").write_text(json.dumps({"large_files": [entry]}))
    content = read_zip(pack_bundle(root, tmp_path / "packed.zip").file)
    assert MODEL not in content
    assert b"https://example.org/w.pt" in content["large_files.yml"]
    assert sha256((root / MODEL).read_bytes()).encode() in content["large_files.yml"]


PACK_FOREVER = """
import sys
from pathlib import Path
from perforated_monai.bundle.pack import pack_bundle

while True:
    pack_bundle(sys.argv[1], sys.argv[2])
    print("packed", flush=True)
    Path(sys.argv[2]).unlink()
"""


def test_a_kill_while_packing_leaves_no_zip_under_its_name(large, tmp_path):
    # A process of its own, since a fork of one with OpenMP threads may crash before it is killed.
    command = [sys.executable, "-c", PACK_FOREVER, str(large), str(tmp_path / "packed.zip")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packing:
        assert packing.stdout.readline() == b"packed\n"
        time.sleep(random.uniform(0, 0.4))
        packing.kill()
    assert packing.returncode == -signal.SIGKILL
    whole = tmp_path / "packed.zip"
    assert not whole.exists() or not verify(whole).broken
