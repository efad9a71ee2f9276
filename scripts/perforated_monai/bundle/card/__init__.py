"""The model card of a bundle, written from the files that measured something."""

from .write import write_card

__all__ = ["write_card"]
