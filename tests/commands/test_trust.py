"""What verify would refuse is not run: not by `segment`, `export`, `overlay`, `check` or `card`.

Each hostile bundle is proved by what did not happen: nobody asked the server, and no marker lies
outside the bundle.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from helpers.hostile_components import EVERY, hostile
from helpers.segment_bundle import blocks, change, make_rounding_bundle, read, save
from helpers.share_bundle import small_bundle
from perforated_monai.bundle.pack import pack_bundle
from perforated_monai.bundle.verify.trust import ALL_WORKFLOWS, trusted
from perforated_monai.commands.main import main
from perforated_monai.files import sha256


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"image\na\n")

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", asked
    made.shutdown()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rounding_bundle(tmp_path_factory.mktemp("plain") / "b")


@pytest.fixture
def bundle(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "deep" / "er" / "foreign")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    save(tmp_path / "scans" / "a.nii.gz", blocks((9, 8, 7)))
    return tmp_path / "scans"


def spoil(bundle: Path, more: dict, names: tuple[str, ...] = ("inference.json",)) -> None:
    """Put keys into configs, and let the first thing that is made require the key "x"."""
    for name in names:
        config = read(bundle, name) | more
        if name == "inference.json":
            config["preprocessing"] = config["preprocessing"] | {"_requires_": "@x"}
        else:
            config["network_def"] = config["network_def"] | {"_requires_": "@x"}
        (bundle / "configs" / name).write_text(json.dumps(config))


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.mark.parametrize(("hole", "way"), EVERY)
def test_segment_runs_nothing_that_verify_refuses(
    hole, way, bundle, scans, server, tmp_path, capsys
) -> None:
    url, asked = server
    spoil(bundle, hostile(hole, way, url, str(tmp_path / "ran")))
    before = tree(tmp_path)
    asked.clear()
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(bundle)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "foreign would run what verify refuses" in said and "--trust" in said
    assert len(said.splitlines()) == 1
    assert asked == [] and tree(tmp_path) == before


@pytest.mark.parametrize("command", ["export", "overlay", "check", "card"])
@pytest.mark.parametrize(("hole", "way"), [e for e in EVERY if e[1] == 0])
def test_other_commands_run_nothing_of_it(
    hole, way, command, bundle, server, tmp_path, capsys
) -> None:
    url, asked = server
    spoil(
        bundle,
        hostile(hole, way, url, str(tmp_path / "ran")),
        ("inference.json", "train.json"),
    )
    asked.clear()
    before = tree(tmp_path)
    flags = {"export": ["--bundle"]}.get(command, [])
    code = main([command, *flags, str(bundle)])
    said = capsys.readouterr()
    assert asked == [] and not (tmp_path / "ran").exists()
    if command in ("export", "overlay"):
        assert code == 1 and "--trust" in said.err and said.out == ""
        assert tree(tmp_path) == before


def test_what_is_trusted_runs_and_is_said(bundle, scans, server, tmp_path, capsys) -> None:
    """The same bundle, so that the tests above could fail."""
    pytest.importorskip("pandas")
    url, asked = server
    asked.clear()
    spoil(bundle, hostile("address", 0, url, ""))
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(bundle), "--device"]
    assert main([*words, "cpu", "--trust"]) == 0
    assert "Trusted: foreign as you said, with 1 findings" in capsys.readouterr().out
    assert asked


CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"


@pytest.mark.parametrize(
    ("file", "imports"),
    [
        ("evil.py", ["$import evil"]),
        ("evil/__init__.py", ["$import evil"]),
        ("cucim.py", []),
        ("scripts/evil.py", ["$import scripts.evil"]),
        ("scripts/evil.py", ["$from scripts import evil"]),
        ("perforated_monai/evil.py", ["$import perforated_monai"]),
    ],
)
def test_code_of_a_bundle_is_not_imported(file, imports, bundle, scans, tmp_path, capsys) -> None:
    (bundle / file).parent.mkdir(exist_ok=True)
    (bundle / file).write_text(CODE.format(marker=str(tmp_path / "ran")))
    config = read(bundle, "inference.json")
    change(bundle, "inference.json", imports=[*config["imports"], *imports])
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(bundle)]
    assert main(words) == 1
    assert "--trust" in capsys.readouterr().err and not (tmp_path / "ran").exists()


def test_code_that_nothing_names_asks_for_no_trust(bundle, scans, tmp_path, capsys) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "prepare.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(bundle)]
    assert main([*words, "--device", "cpu"]) == 0
    assert "Trusted: foreign runs only what verify allows." in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_links_and_unreadable_configs_are_judged_too(bundle, scans, tmp_path, capsys) -> None:
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(bundle)]
    config = bundle / "configs" / "inference.json"
    text = config.read_text()
    shutil.move(config, tmp_path / "elsewhere.json")
    config.symlink_to(tmp_path / "elsewhere.json")
    assert main(words) == 1 and "a link" in capsys.readouterr().err
    config.unlink()
    config.write_text(text[:-1] + ', "imports": []}')
    assert main(words) == 1 and "twice" in capsys.readouterr().err
    config.write_text(text)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("1")
    (bundle / "cupy").symlink_to(tmp_path / "code")
    assert main(words) == 1 and "a link to code" in capsys.readouterr().err


def test_a_packed_bundle_needs_no_trust_and_a_record_is_no_pass(tmp_path, capsys) -> None:
    packed = pack_bundle(small_bundle(tmp_path / "src"), tmp_path / "small.zip").file
    shutil.unpack_archive(packed, tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "small_bundle"
    said = str(trusted(folder, ALL_WORKFLOWS, trust=False))
    assert said.startswith("Trusted: small_bundle is as perforated_monai ")
    config = read(folder, "train.json")
    x = {"_target_": "monai.data.CSVDataset", "src": "http://127.0.0.1:9"}
    change(folder, "train.json", network_def=config["network_def"] | {"_requires_": x})
    forged = json.loads((folder / "packed.json").read_text())
    data = (folder / "configs/train.json").read_bytes()
    forged["files"]["configs/train.json"] = {"size": len(data), "sha256": sha256(data)}
    (folder / "packed.json").write_text(json.dumps(forged))
    assert main(["overlay", str(folder)]) == 1
    assert "an address" in capsys.readouterr().err


def test_a_copy_of_a_bundle_of_this_project_is_known(tmp_path, capsys) -> None:
    own = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
    copy = shutil.copytree(own, tmp_path / own.name, ignore=shutil.ignore_patterns("studies"))
    said = str(trusted(copy, ALL_WORKFLOWS, trust=False))
    assert said == f"Trusted: {own.name} is one of this project's bundles, unchanged."
    change(copy, "train.json", x="$open('/etc/passwd')")
    assert main(["overlay", str(copy)]) == 1
    assert "the name open" in capsys.readouterr().err


@pytest.mark.parametrize("hidden", ["config", "code"])
def test_a_link_does_not_pass_for_a_bundle_of_this_project(hidden, scans, tmp_path, capsys) -> None:
    """What is behind a link was not compared, and ran as "one of this project's, unchanged"."""
    own = Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_mri_dendritic"
    copy = shutil.copytree(own, tmp_path / own.name, ignore=shutil.ignore_patterns("studies"))
    config = copy / "configs" / "inference.json"
    if hidden == "config":
        changed = read(copy, "inference.json")
        changed["preprocessing"]["_requires_"] = f"$open('{tmp_path / 'ran'}', 'w')"
        (copy / "configs" / "evil.json").write_text(json.dumps(changed))
        config.unlink()
        config.symlink_to("evil.json")
    else:
        (tmp_path / "monai").mkdir()
        (tmp_path / "monai" / "evil.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
        (copy / "monai").symlink_to(tmp_path / "monai")
    words = ["segment", str(scans), str(tmp_path / "out"), "--bundle", str(copy)]
    assert main(words) == 1
    assert "a link" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
