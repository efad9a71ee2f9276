"""The efficiency card: what several networks cost and what they reach, side by side.

``subject`` reads a bundle or a run, ``cost`` measures all of them in turn, ``figure`` draws,
``claims`` puts what was claimed beside what was measured, ``page`` writes.
"""

from .page import write_efficiency

__all__ = ["write_efficiency"]
