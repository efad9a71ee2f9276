"""Components of MONAI that open or write something: inside the bundle, or shown and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.hostile_components import EVERY, hostile
from helpers.share_bundle import INFERENCE, METADATA, edit, in_metadata, rezip
from perforated_monai.bundle.verify.paths import paths
from perforated_monai.bundle.verify.verify import verify
from perforated_monai.bundle.verify.walk import Unpacked


def found(config: dict, metadata: dict | None = None) -> list[str]:
    bundle = Unpacked(Path("x"))
    bundle.configs = {"configs/inference.json": config}
    if metadata is not None:
        bundle.configs["configs/metadata.json"] = metadata
    return [broken.value for broken in paths.check(bundle)]


@pytest.mark.parametrize(("hole", "way"), EVERY)
def test_verify_shows_each_way_through_a_hole(hole, way, content, tmp_path) -> None:
    marker = str(tmp_path / "ran")
    edit(content, INFERENCE, **hostile(hole, way, "http://127.0.0.1:9", marker))
    verdict = verify(rezip(content, tmp_path / "hostile.zip"))
    assert any(f.file == INFERENCE for f in verdict.foreign), verdict


def test_an_address_from_the_metadata(content, tmp_path) -> None:
    in_metadata(content, lambda m: m.update(home="http://127.0.0.1:9/a.csv"))
    edit(content, INFERENCE, x={"_target_": "monai.data.CSVDataset", "src": "@_meta_::home"})
    verdict = verify(rezip(content, tmp_path / "hostile.zip"))
    assert any("an address" in f.value for f in verdict.foreign)
    assert METADATA not in {f.file for f in verdict.foreign}


INSIDE = [
    {"output_dir": "$@bundle_root + '/eval'", "bundle_root": "."},
    {"output_dir": "@out", "out": "@root", "root": "./eval"},
    {"load_path": "$@bundle_root + '/models/' + ('a.pt' if @big else 'b.pt')", "big": True},
    {"output_dir": "$os.path.join(@output_dir, 'masks')", "output_postfix": "seg"},
    {"log_dir": "@dataset_dir", "dataset_dir": "/workspace/data/Task09_Spleen"},
    {"data": "$[{'image': i} for i in @images]", "dataset_dir": "/workspace/data"},
    {"save_dir": '$f"{@bundle_root}/models"', "final_filename": "model.pt"},
    {"src": None, "path": 3, "cache_dir": False, "device": "cuda:0", "output_ext": ".nii.gz"},
]
OUTSIDE = [
    {"output_dir": "/etc"},
    {"output_dir": "C:\\Windows"},
    {"output_dir": "\\\\server\\share"},
    {"output_dir": "$@empty + '/etc'", "empty": ""},
    {"output_dir": "$'a' if @x else '/etc'", "x": 1},
    {"output_dir": "$@x or '/etc'", "x": ""},
    {"output_dir": "$'cte/'[::-1]"},
    {"output_dir": "$'/'.join(['', 'etc'])"},
    {"output_dir": "$'%setc' % '/'"},
    {"output_dir": "$os.path.join(@bundle_root, '/etc')", "bundle_root": "."},
    {"output_dir": "$os.path.dirname('/etc/x')"},
    {"output_dir": "$@bundle_root + '/../../x'", "bundle_root": "."},
    {"output_dir": "@a", "a": "@b", "b": ["/etc"]},
    {"output_dir": "%a", "a": "/etc"},
    {"output_dir": "@bundle_root", "bundle_root": "/etc"},
    {"output_dir": "@a", "a": "@a"},
    {"data": "@list", "list": [{"image": "/etc/passwd"}]},
    {"data": [{"image": "~/.ssh/id_rsa"}]},
    {"data": "simplecache::http://x/y"},
    {"anything": "$print('https://x/' + @name)"},
    {"log_dir": "@dataset_dir", "dataset_dir": "s3://bucket"},
    {"merger_kwargs": {"store": "/etc"}},
]


def component(config: dict) -> dict:
    """The keys that belong to a component, and the others beside it."""
    others = {"bundle_root", "out", "root", "big", "dataset_dir", "empty", "x", "a", "b", "list"}
    arguments = {k: v for k, v in config.items() if k not in others}
    return {k: v for k, v in config.items() if k in others} | {
        "made": {"_target_": "Identityd", **arguments}
    }


@pytest.mark.parametrize("config", INSIDE, ids=json.dumps)
def test_what_stays_inside_is_not_shown(config) -> None:
    assert found(component(config)) == []


@pytest.mark.parametrize("config", OUTSIDE, ids=json.dumps)
def test_what_leads_outside_is_shown(config) -> None:
    assert found(component(config))


def test_an_overlay_is_judged_by_what_it_may_become() -> None:
    assert found({"train::handlers::0::output_dir": "/etc"})
    assert found({"+train::handlers": [{"_target_": "StatsHandler", "log_dir": "//server/x"}]})


def test_parts_that_zoo_bundles_use_are_no_reason(content, tmp_path) -> None:
    """`AddClickSignalsd` is MONAI's own, and `x.meta` reads what a scan says of itself."""
    more = {
        "x": [{"_target_": "AddClickSignalsd", "image": "image"}],
        "y": "$lambda x: [i['image'].meta for i in x]",
        "z": "$lambda x: x['image'].meta.get('spacing')",
    }
    edit(content, INFERENCE, **more)
    verdict = verify(rezip(content, tmp_path / "plain.zip"))
    assert [f.value for f in verdict.foreign] == []
    edit(content, INFERENCE, y="$lambda x: x.meta.update(a='b')")
    assert verify(rezip(content, tmp_path / "plain.zip")).foreign
