"""Public names keep working: every config of the repository finds what it names, as MONAI does."""

import importlib
import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigComponent, ConfigParser

import perforated_monai
from perforated_monai import _public
from perforated_monai.networks.catalogue import MobileUNet
from perforated_monai.training.distributed import start

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    file
    for pattern in ("bundles/*/configs/*", "bundles/*/studies/*.yaml", "tests/data/*/*.json")
    for file in REPOSITORY.glob(pattern)
    if file.suffix in (".json", ".yaml")
)
OURS = re.compile(r"\bperforated_monai(?:\.[A-Za-z_]\w*)+")


def strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a config, with the key that it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from strings(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, key)
    elif isinstance(value, str):
        yield key, value


def ours_in(content: object) -> set[str]:
    """Dotted names below ``perforated_monai`` that a config would look up: targets, expressions."""
    return {
        name
        for key, text in strings(content)
        if key == "_target_" or text.startswith("$")
        for name in OURS.findall(text)
    }


def looked_up(name: str) -> object:
    """What MONAI finds under a ``_target_``; a module is what an expression would import."""
    component = ConfigComponent(config={"_target_": name}, id="")
    return pydoc.locate(str(component.resolve_module_name()))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.relative_to(REPOSITORY).as_posix())
def test_every_config_finds_what_it_names(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    if file.parent.name == "configs":
        content = ConfigParser.load_config_file(str(file))
    lost = [name for name in ours_in(content) if looked_up(name) is None]
    assert not lost, f"{file} names what is not there"


def test_the_configs_name_ours() -> None:
    """Else the test above would look at nothing."""
    assert len(CONFIGS) > 20
    names = ours_in([yaml.safe_load(file.read_text(encoding="utf-8")) for file in CONFIGS])
    assert {"perforated_monai.RunHandler", "perforated_monai.build_network"} <= names
    assert looked_up("perforated_monai.NoSuchName") is None


@pytest.mark.parametrize("name", _public.NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert name in perforated_monai.__all__
    found = getattr(perforated_monai, name)
    assert looked_up(f"perforated_monai.{name}") is found


@pytest.mark.parametrize("name", _public.MODULES)
def test_every_public_module_is_imported_by_name(name: str) -> None:
    assert importlib.import_module(f"perforated_monai.{name}") is not None
    assert getattr(perforated_monai, name) is not None


def test_public_modules_hold_what_configs_take_from_them() -> None:
    import perforated_monai.distributed
    import perforated_monai.nets

    assert perforated_monai.nets.MobileUNet is MobileUNet
    assert perforated_monai.distributed.start is start
