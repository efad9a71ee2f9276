"""A bundle's own Python code, importable while it is needed."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from ...bundle.own_code import forget_own_code

_users: dict[str, int] = {}  # folder that was added to sys.path -> who needs it now
_changing = threading.Lock()


@contextlib.contextmanager
def bundle_code(folder: str | Path) -> Iterator[None]:
    """Put a bundle's folder on ``sys.path`` as ``monai.bundle`` does, and take it off at the end.

    Several threads may need one folder at a time; the last one takes it off. A folder that the
    caller has put there stays. Loading a bundle does this by itself; code of a bundle that imports
    more of it only when a volume comes needs it around the call too.
    """
    place = str(Path(folder).absolute())  # other libraries change the working folder
    with _changing:
        if place not in _users and place in sys.path:
            ours = False
        else:
            ours = True
            if not _users.get(place):
                sys.path.append(place)
                if not _users:
                    forget_own_code()
            _users[place] = _users.get(place, 0) + 1
    try:
        yield
    finally:
        if ours:
            with _changing:
                _users[place] -= 1
                if not _users[place]:
                    del _users[place]
                    with contextlib.suppress(ValueError):
                        sys.path.remove(place)
