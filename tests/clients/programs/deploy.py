"""MONAI Deploy App SDK: its bundle operator on the CPU, from model.ts; no package of ours.

deploy.py VOLUME OUT; HOLOSCAN_MODEL_PATH names the folder of model/model.ts.
"""

import sys

import nibabel as nib
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import (
    Application,
    Image,
    IOType,
    Operator,
    OperatorSpec,
)
from monai.deploy.operators.monai_bundle_inference_operator import (
    BundleConfigNames,
    IOMapping,
    MonaiBundleInferenceOperator,
)

volume, out = sys.argv[1:]


class Source(Operator):
    """One NIfTI volume as an Image in (z, y, x), as the DICOM loader gives it."""

    def setup(self, spec: OperatorSpec):
        spec.output("image")

    def compute(self, op_input, op_output, context):
        read = nib.load(volume)
        array = np.asarray(read.dataobj).transpose(2, 1, 0)
        image = Image(array)
        affine = read.affine
        for name, value in (
            ("row_pixel_spacing", 1.0),
            ("col_pixel_spacing", 1.0),
            ("depth_pixel_spacing", 1.0),
            ("nifti_affine_transform", affine),
        ):
            image.metadata()[name] = value
        op_output.emit(image, "image")


class Sink(Operator):
    """Keeps what comes out."""

    def setup(self, spec: OperatorSpec):
        spec.input("pred")

    def compute(self, op_input, op_output, context):
        found = op_input.receive("pred").asnumpy()
        np.save(out, found)


class Segment(Application):
    def compose(self):
        context = Application.init_app_context({})
        once = CountCondition(self, 1)  # a source without it is asked for ever
        source = Source(self, once, name="source")
        network = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=context,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            bundle_path=None,
            name="network",
        )
        sink = Sink(self, name="sink")
        self.add_flow(source, network, {("image", "image")})
        self.add_flow(network, sink, {("pred", "pred")})


Segment().run()
assert "perforated_monai" not in sys.modules
