"""How an export is proven, and who hears how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError
from ..inference.patches import BATCH

PATCHES = 8


@dataclass(frozen=True)
class Proof:
    """Settings of a proof.

    Attributes:
        patches: how many are compared, at least 1; they run in batches of two.
        size: most voxels along an axis of a patch; 0 takes the window of the bundle.
        say: called with one line for each step of a long export.
    """

    patches: int = PATCHES
    size: int = 0
    say: Callable[[str], object] = lambda text: None

    def __post_init__(self) -> None:
        if self.patches < 1 or self.size < 0:
            msg = (
                "an export is proven on 1 patch or more, of 1 voxel or more a side; got --patches "
                f"{self.patches} --size {self.size}."
            )
            raise UserError(msg)

    def progress(self, what: str) -> Callable[[int, int], object]:
        """Lines about ``what``, one a batch."""
        return lambda done, of: self.say(f"{what}: {done * BATCH} of {of * BATCH} patches")


def cut_to(space: tuple[int, ...], most: int) -> tuple[int, ...]:
    """A window with no side above ``most`` voxels."""
    return tuple(min(side, most) for side in space)
