"""The command that prepares someone else's bundle for growth."""

from __future__ import annotations

import sys
from pathlib import Path


def overlay(
    bundle: str,
    kind: str = "",
    layers: str = "*",
    layer_types: str = "",
    freeze_base: bool = False,
    weights: str = "",
    from_scratch: bool = False,
    config: str = "",
    trainer: str = "",
    network: str = "",
    network_def: str = "",
    optimizer: str = "",
    scheduler: str = "",
    evaluator: str = "",
    metric: str = "",
    trust: bool = False,
    compat: str = "",
) -> int:
    """Print a dendrites.yaml that grows dendrites in any MONAI bundle; nothing of it is run.

    Args:
        bundle: folder of the bundle.
        kind: of the dendrites: distal, apical or copy (the library's own); by default what suits
            the network's shape.
        layers: shell patterns over module names that grow, with commas; without a kind, by copies.
        layer_types: class names of layers that grow, likewise; by default all convolutions.
        freeze_base: only the dendrites train.
        weights: state dict to start from; by default the bundle's models/model.pt.
        from_scratch: start from fresh weights.
        config: the training config; by default configs/train.json or train.yaml.
        trainer: id of the trainer, where it is not clear; likewise:
        network: what is trained.
        network_def: the MONAI network it is made from.
        optimizer: its optimizer.
        scheduler: the learning-rate schedule, or none.
        evaluator: what validates.
        metric: name of the score to follow; higher must be better.
        trust: read and train what verify refuses, a network of the bundle's own code included.
        compat: write the lines alone that the bundle needs under the installed MONAI to this file.
    """
    from ..bundle.folder import bundle_folder
    from ..bundle.overlay.make import Choices, make_compat, make_overlay
    from ..bundle.overlay.parts import Given
    from ..bundle.verify.trust import trusted
    from ..files import write_text
    from ..inference.formats import as_list

    given = Given(
        trainer=str(trainer),
        network=str(network),
        network_def=str(network_def),
        optimizer=str(optimizer),
        scheduler=str(scheduler).lower() if str(scheduler).lower() == "none" else str(scheduler),
        evaluator=str(evaluator),
        metric=str(metric),
    )
    choices = Choices(
        config=str(config),
        given=given,
        kind=str(kind),
        layers=tuple(as_list(layers)) or ("*",),
        weights=str(weights),
        from_scratch=bool(from_scratch),
        freeze_base=bool(freeze_base),
        trust=bool(trust),
        **({"layer_types": tuple(as_list(layer_types))} if layer_types else {}),
    )
    folder = bundle_folder(str(bundle))
    line = trusted(folder, ("train",), trust, config=str(config))
    if compat:
        mends = make_compat(folder, str(config))
        write_text(Path(str(compat)), mends or "{}  # nothing is known to fail\n")
    text = make_overlay(folder, choices)
    print(line, file=sys.stderr)  # the overlay itself is what is printed
    print(text, end="")
    return 0
