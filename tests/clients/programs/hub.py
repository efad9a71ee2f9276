"""The model card that monai.bundle.push_to_hf_hub makes of docs/README.md, without network.

hub.py BUNDLE OUT: Hugging Face's own reader checks the card.
"""

import json
import shutil
import sys
from pathlib import Path

from huggingface_hub import ModelCard
from monai.bundle.scripts import _add_model_card_metadata  # the step before the upload

bundle, out = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copyfile(bundle / "LICENSE", out / "LICENSE")
shutil.copyfile(bundle / "docs" / "README.md", out / "README.md")
_add_model_card_metadata(str(out / "README.md"))
card = ModelCard.load(out / "README.md")
print(json.dumps({"data": card.data.to_dict(), "start": card.text.lstrip()[:7]}))
