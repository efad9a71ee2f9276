"""Public modules such as ``perforated_monai.nets`` load when something of theirs is asked for."""

import subprocess
import sys

LOOKED_AT = """
import inspect, sys
import perforated_monai
for name in ("perforated_monai.nets", "perforated_monai.distributed"):
    module = sys.modules[name]
    assert not hasattr(module, "__file__") and not hasattr(module, "__path__")
assert "torch" not in sys.modules and "monai" not in sys.modules
import monai.bundle  # imports torch, which looks at every module on its way
from perforated_monai.nets import MobileUNet
assert "MobileUNet" in perforated_monai.nets.__all__
"""


def test_looking_at_a_public_module_does_not_load_it() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKED_AT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
