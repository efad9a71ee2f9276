"""A bundle's own code is importable while the bundle needs it; ``sys.path`` is as before."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.segment_bundle import blocks, change, make_rounding_bundle, read
from perforated_monai.inference.segment import Segmenter, bundle_code, components
from perforated_monai.inference.segment.load import load_bundle

OWN = """
from monai.transforms import MapTransform

class Unchanged(MapTransform):
    def __call__(self, data):
        from own_code_of_a_test.later import VALUE
        return {**data, "seen": VALUE}
"""


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Path:
    folder = make_rounding_bundle(tmp_path / "b")
    (folder / "own_code_of_a_test").mkdir()
    (folder / "own_code_of_a_test" / "__init__.py").write_text(OWN)
    (folder / "own_code_of_a_test" / "later.py").write_text("VALUE = 1")
    config = read(folder, "inference.json")["preprocessing"]
    config["transforms"].append({"_target_": "own_code_of_a_test.Unchanged", "keys": "image"})
    change(folder, "inference.json", preprocessing=config)
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_code_of_a_test")]:
        del sys.modules[name]


def test_a_bundle_with_code_of_its_own_leaves_the_path_as_it_was(bundle):
    before = list(sys.path)
    segmenter = Segmenter(bundle, device="cpu")
    assert sys.path == before
    values = blocks((14, 12, 10))
    assert np.array_equal(segmenter(values, np.eye(4)).labels, np.round(values))
    assert sys.path == before


def test_the_last_thread_takes_the_folder_off(tmp_path):
    before, leaving = list(sys.path), threading.Event()

    def longer() -> None:
        with bundle_code(tmp_path):
            inside.set()
            leaving.wait(5)
            assert str(tmp_path) in sys.path

    inside = threading.Event()
    thread = threading.Thread(target=longer)
    with bundle_code(tmp_path):
        thread.start()
        inside.wait(5)
    assert sys.path == [*before, str(tmp_path)]
    leaving.set()
    thread.join()
    assert sys.path == before


def test_a_folder_of_the_caller_stays(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    with bundle_code(tmp_path), bundle_code(tmp_path):
        assert sys.path == before
    assert sys.path == before


def test_threads_read_expressions_one_after_another(tmp_path, monkeypatch):
    """CPython 3.11 parses in one thread at a time: two at once end in a SystemError at times."""
    made = load_bundle(make_rounding_bundle(tmp_path / "plain"))
    inside, most = [], []

    class Watched(components.ConfigParser):
        def get_parsed_content(self, *arguments, **options):
            inside.append(self)
            most.append(len(inside))
            time.sleep(0.02)
            try:
                return super().get_parsed_content(*arguments, **options)
            finally:
                inside.remove(self)

    monkeypatch.setattr(components, "ConfigParser", Watched)
    threads = [threading.Thread(target=made.pipeline) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) >= 4 and max(most) == 1
