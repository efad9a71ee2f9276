"""ONNX Runtime and OpenVINO on model.onnx, without torch.

runtimes.py MODEL INPUT OUT: INPUT is a .npy of (B, C, *space); writes both outputs to OUT (.npz).
"""

import sys

sys.modules["openvino_telemetry"] = None  # it would report the use
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402

model, source, out = sys.argv[1:]
x = np.load(source)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
first = session.run(None, {session.get_inputs()[0].name: x})[0]
core = openvino.Core()
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.savez(out, onnxruntime=first, openvino=compiled(x)[0])
assert "torch" not in sys.modules
