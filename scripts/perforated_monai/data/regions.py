"""Label values -> one channel a region, for labels whose regions lie inside each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from ..errors import UserError


class LabelRegionsd(MapTransform):
    """Split a label map into regions, each the union of some label values.

    MSD Task01 has 1 edema, 2 non-enhancing and 3 enhancing tumour; ``[[1, 2, 3], [2, 3], [3]]``
    gives whole tumour, tumour core and enhancing tumour. MONAI's
    ``ConvertToMultiChannelBasedOnBratsClassesd`` reads BraTS's own values (1 necrotic core, 2
    edema, 4 enhancing) and would take edema for core here.

    Args:
        keys: entries to split, ``(1, *space)`` each; they become ``(K, *space)`` float32 of 0 and
            1, with their metadata.
        regions: label values of each of the K regions.
        allow_missing_keys: leave out entries that are not there.

    Raises:
        UserError: for a region without whole numbers; from calls, for another number of channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[Sequence[int]],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        whole = [isinstance(r, Sequence) and r and all(type(v) is int for v in r) for r in regions]
        if not whole or not all(whole):
            msg = f"regions must give whole label values for each region; got {regions!r}."
            raise UserError(msg)
        self.regions = [list(region) for region in regions]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split each entry."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            if label.shape[0] != 1:
                msg = f"{key} must have one channel of label values; got {label.shape[0]}."
                raise UserError(msg)
            split = split_regions(torch.as_tensor(label).as_subclass(Tensor), self.regions)
            result[key] = convert_to_dst_type(split, label, dtype=torch.float32)[0]
        return result


def split_regions(label: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """``(1, *space)`` of label values -> ``(K, *space)``, true inside each region."""
    return torch.cat([torch.isin(label, torch.tensor(r, dtype=label.dtype)) for r in regions])
