"""The allow-list: what a config may name without --trust. All else is shown and refused."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

import monai
import monai.inferers

from ..._public import NAMES as PUBLIC
from ...networks import catalogue as nets
from ..overrides import monai_modules

# Names that an expression may use or call; a class of MONAI is a component, not one of these.
NAMES = {
    *(f"math.{name}" for name in ("ceil", "floor", "sqrt", "log", "log2", "exp", "pi", "inf")),
    "glob.glob",
    *(f"os.path.{name}" for name in ("join", "basename", "dirname", "splitext", "normpath")),
    *(f"os.path.{name}" for name in ("exists", "isfile", "isdir", "abspath", "expanduser")),
    "os.cpu_count",
    "os.sep",
    *(f"logging.{name}" for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    *(f"numpy.{name}" for name in ("array", "arange", "linspace", "prod", "ceil", "floor", "pi")),
    *(f"numpy.{name}" for name in ("inf", "nan", "float16", "float32", "float64", "bool_")),
    *(f"numpy.{name}" for name in ("uint8", "uint16", "int8", "int16", "int32", "int64")),
    *(f"torch.{name}" for name in ("device", "tensor", "zeros", "ones", "manual_seed", "no_grad")),
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "half", "float")),
    *(f"torch.{name}" for name in ("uint8", "int8", "int16", "int32", "int64", "long", "bool")),
    *(f"torch.{name}" for name in ("sigmoid", "softmax", "argmax", "cat", "stack", "inf", "where")),
    *(f"torch.{name}" for name in ("max", "min", "sum", "mean", "abs", "clamp", "round", "exp")),
    *(f"torch.{name}" for name in ("zeros_like", "ones_like", "isfinite", "logical_or", "flip")),
    *(f"torch.cuda.{name}" for name in ("is_available", "device_count", "set_device")),
    "torch.backends.mps.is_available",
    *(f"torch.distributed.{name}" for name in ("get_rank", "get_world_size", "is_initialized")),
    *(f"torch.distributed.{name}" for name in ("init_process_group", "destroy_process_group")),
    *(f"torch.distributed.{name}" for name in ("is_available", "barrier")),
    "monai.utils.set_determinism",
    *(f"monai.handlers.{name}" for name in ("from_engine", "stopping_fn_from_metric")),
    *(f"monai.data.{name}" for name in ("load_decathlon_datalist", "decollate_batch")),
    *(f"monai.data.{name}" for name in ("list_data_collate", "pad_list_data_collate")),
    "monai.data.partition_dataset",
    *(f"perforated_monai.{name}" for name in PUBLIC),
    *(f"perforated_monai.nets.{name}" for name in nets.__all__),
    *(f"perforated_monai.distributed.{name}" for name in ("start", "stop", "device", "rank")),
    *(f"perforated_monai.distributed.{name}" for name in ("world", "shard")),
    # handlers that a study adds to its trials, whose configs lie in studies/results
    *(f"perforated_monai.study.handlers.{name}" for name in ("record.TrialRecord",)),
    *(
        f"perforated_monai.study.handlers.{name}"
        for name in ("settle.GrowAndSettle", "restart.RestartHandler", "branch.BranchHandler")
    ),
}
# Of a function in NAMES: the only arguments it may get (an init_method names an address).
ONLY_ARGUMENTS = {"torch.distributed.init_process_group": ("backend",)}
BUILTINS = {
    *("len", "range", "list", "tuple", "dict", "set", "str", "int", "float", "bool", "min", "max"),
    *("sum", "abs", "round", "sorted", "reversed", "zip", "enumerate", "map", "filter", "any"),
    *("all", "isinstance", "slice", "print"),
}
# Attributes of objects that components, references and calls give.
ATTRIBUTES = {
    *("to", "cpu", "cuda", "half", "float", "eval", "train", "parameters", "named_parameters"),
    *("state_dict", "load_state_dict", "type", "shape", "ndim", "size", "dtype", "device"),
    *("run", "state", "epoch", "iteration", "max_epochs", "network", "logger", "setLevel"),
    # no "update": what SaveImage calls a file after stands in a mapping, ``x.meta``
    *("items", "keys", "values", "get", "append", "extend", "copy", "index", "count"),
    *("split", "rsplit", "strip", "lstrip", "rstrip", "replace", "join", "lower", "upper"),
    *("startswith", "endswith", "removesuffix", "removeprefix", "zfill", "partition"),
    *("sum", "mean", "max", "min", "argmax", "unsqueeze", "squeeze", "item", "tolist"),
    *("meta", "affine", "reshape", "permute", "flatten", "astype", "numpy", "detach", "clone"),
    *("long", "any", "all"),
}
ENVIRONMENT = ("LOCAL_RANK", "RANK", "WORLD_SIZE")
MODULES = re.compile(
    r"(monai|torch|numpy|ignite)(\.[a-z]\w*)*"
    r"|math|glob|os|os\.path|logging|perforated_monai(\.distributed)?"
)

_COMPONENTS = re.compile(
    r"monai\.(transforms|networks|losses|metrics|inferers|handlers|engines|data|optimizers)\b"
    r"|monai\.apps\.(deepedit|deepgrow|detection|generation|interaction|nuclick|pathology|vista3d)\b"
)
# Classes of MONAI that report to a server, run other libraries by name, or fetch weights.
_NOT_THESE = re.compile(
    r"monai\.handlers\.(mlflow_handler|clearml_handlers|trt_handler)\b"
    r"|monai\.networks\.trt_compiler\b|monai\.data\.video_dataset\b|monai\.optimizers\.lr_finder\b"
    r"|monai\.losses\.perceptual\b|monai\.networks\.nets\.transchex\b"
    r"|monai\.networks\.blocks\.hyena\b|monai\.networks\.nets\.hyena\w*"
    r"|.*\.(Rand)?(TorchVision|TorchIO|CuCIM)d?"
)
_TORCH = re.compile(
    r"torch\.optim(\.lr_scheduler)?\.[A-Z]\w*|torch\.nn\.[A-Z]\w*|torch\.utils\.data\.[A-Z]\w*"
    r"|torch\.nn\.parallel\.DistributedDataParallel|torch\.utils\.data\.distributed\.[A-Z]\w*"
    r"|torch\.utils\.tensorboard\.SummaryWriter|torch\.device"
)
_IGNITE = re.compile(
    r"ignite\.metrics\.(?!FID|InceptionScore)[A-Z]\w*"
    r"|ignite\.handlers\.(ProgressBar|EarlyStopping|TerminateOnNan|Timer|BasicTimeProfiler)"
)


def judge_target(target: str) -> str:
    """Why a ``_target_`` is outside the allow-list, or ""."""
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", target, re.ASCII):
        return "no plain name"
    if "." not in target:
        modules = monai_modules(target)
        if not modules:
            return "no component of MONAI"
        return next(filter(None, (_judge_monai(f"{m}.{target}") for m in modules)), "")
    top = target.partition(".")[0]
    if top == "monai":
        return _judge_monai(target)
    if top == "perforated_monai":
        return "" if target in NAMES else "not public there"
    known = {"torch": _TORCH, "ignite": _IGNITE}.get(top)
    if known and known.fullmatch(target) and inspect.isclass(locate(target)):
        return ""
    return "outside the allow-list"


def locate(target: str) -> Any:
    """The object behind a dotted name of MONAI, torch or Ignite; None where there is none."""
    try:
        return pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return None


def is_module(name: str) -> bool:
    """Whether a dotted name of MONAI, torch, NumPy or Ignite is a module, under its own name."""
    symbol = locate(name)
    return inspect.ismodule(symbol) and symbol.__name__ == name


def is_own_class(name: str) -> bool:
    """Whether MONAI finds a reader, writer or merger of that name among its own classes."""
    places = (monai.data, monai.inferers)
    own = {n.lower() for place in places for n, v in vars(place).items() if inspect.isclass(v)}
    return name.lower() in own


def component(target: str) -> Any:
    """The object that MONAI would make for an allowed ``_target_``."""
    modules = [] if "." in target else monai_modules(target)
    return locate(f"{modules[0]}.{target}" if modules else target)


def _judge_monai(target: str) -> str:
    if target in NAMES:
        return ""
    symbol = locate(target)
    if not inspect.isclass(symbol):
        return "no class of MONAI"
    full = f"{symbol.__module__}.{symbol.__qualname__}"
    if not _COMPONENTS.match(full):
        return "outside MONAI's components"
    return "reports, fetches or runs other libraries" if _NOT_THESE.match(full) else ""
