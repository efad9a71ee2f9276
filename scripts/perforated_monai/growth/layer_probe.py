"""What a new dendrite at each layer is expected to gain, from the gradient of its output weight.

A dendrite a enters a layer's output y as ``y + w·f(a)`` with w = 0 and one weight a channel c, so
``dL/dw_c = sum over batch and voxels of dL/dy_c · f(a_c)``, without the dendrite being there. A
step of size s against the sign of each mean gradient, as Adam's first step is, lowers the loss by
``s · sum_c |mean dL/dw_c|`` to first order: that sum is the gain. The loss stands for Dice.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..dendrites.branches import Dendrite, draw_anew
from ..dendrites.config import DendriteConfig
from ..dendrites.formula import activate
from ..errors import UserError
from ..training.seeds import own_random_numbers

DRAWS = 4  # dendrites drawn for each layer: one alone may point somewhere by chance

Loss = Callable[[Any], Tensor]


def expected_gains(
    network: nn.Module,
    names: list[str],
    config: DendriteConfig,
    batches: Iterable[Any],
    loss_of: Loss,
    seed: int,
) -> dict[str, float]:
    """Expected fall of the loss by a first dendrite of ``config.kind`` at each layer.

    Dendrites are drawn in the layers' ordinary initialisation whatever ``config`` says: those of
    N(0, 0.01²) are constant behind a sigmoid, and a normalisation behind the layer takes that away.
    Weights, buffers, gradients and generators are as before afterwards.

    Args:
        network: plain, in the state in which it would grow.
        names: of its layers.
        config: its kind and activation count.
        batches: what ``loss_of`` takes; averaged over.
        loss_of: batch -> scalar loss of ``network``.
        seed: of the dendrites and of dropout.

    Returns:
        the gain of each layer, a mean over draws, in units of the loss for a step of 1.

    Raises:
        UserError: where no batch gave a loss that depends on the layers.
    """
    with _kept(network), own_random_numbers(network, seed):
        layers = {name: network.get_submodule(name) for name in names}
        drawn = {n: [_draw(m, config) for _ in range(DRAWS)] for n, m in layers.items()}
        sums: dict[str, Tensor] = {}
        count = 0
        for batch in batches:
            count += 1
            for name, gradient in _gradients(layers, drawn, config.activation, loss_of, batch):
                sums[name] = sums[name] + gradient if name in sums else gradient
    if not sums:
        msg = "layers: auto found no loss that depends on the layers; take layers: all."
        raise UserError(msg)
    zero = torch.zeros(DRAWS, 1)
    return {n: float((sums.get(n, zero) / count).abs().sum(dim=1).mean()) for n in names}


def trainer_loss(trainer: Any, network: nn.Module) -> Loss:
    """The training loss of a MONAI ``SupervisedTrainer`` as a function of a batch.

    Raises:
        UserError: for a trainer that has none.
    """
    needed = ("loss_function", "prepare_batch", "inferer")
    missing = [name for name in needed if not callable(getattr(trainer, name, None))]
    if missing:
        msg = (
            f"layers: auto needs a trainer with {', '.join(needed)}; {type(trainer).__name__} has "
            f"no {missing[0]}. Take layers: all or random."
        )
        raise UserError(msg)

    def loss_of(batch: Any) -> Tensor:
        device, blocking = trainer.state.device, trainer.non_blocking
        prepared = trainer.prepare_batch(batch, device, blocking, **trainer.to_kwargs)
        inputs, targets, *more = prepared
        args, kwargs = more or ((), {})
        loss: Tensor = trainer.loss_function(
            trainer.inferer(inputs, network, *args, **kwargs), targets
        )
        return loss.mean()

    return loss_of


def training_batches(trainer: Any, count: int) -> Iterator[Any]:
    """``count`` batches of the trainer's data, made in this process, from the epoch it is in.

    Its own iterator and data workers are left alone; a short epoch goes on into the next.
    """
    loader = trainer.data_loader
    sampler: Any = getattr(loader, "sampler", None)
    if getattr(loader, "batch_sampler", None) is None:
        yield from itertools.islice(iter(loader), count)
        return
    before = getattr(sampler, "epoch", None)
    done = 0
    try:
        for epoch in itertools.count(trainer.state.epoch):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            start = done
            for indices in loader.batch_sampler:
                if done == count:
                    return
                done += 1
                yield loader.collate_fn([loader.dataset[i] for i in indices])
            if done == start:
                return
    finally:
        if before is not None:
            sampler.set_epoch(before)


def _gradients(
    layers: dict[str, nn.Module],
    drawn: dict[str, list[nn.Module]],
    activation: str,
    loss_of: Loss,
    batch: Any,
) -> Iterator[tuple[str, Tensor]]:
    """Gradient of every draw's output weights, ``(DRAWS, C)``, for each call of each layer."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, x: Tensor, y: Tensor) -> Tensor:
        calls.append((name, x.detach().as_subclass(Tensor), y))
        return y.clone()  # an activation in place would make y another tensor

    hooks = [
        layer.register_forward_hook(lambda _, x, y, name=name: note(name, x[0], y))
        for name, layer in layers.items()
    ]
    try:
        loss = loss_of(batch)
    finally:
        for hook in hooks:
            hook.remove()
    # Not backward(): gradients of parameters would reach the processes of a distributed run.
    outputs = [y for _, _, y in calls]
    gradients = torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ()
    for (name, x, _), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            axis = -1 if isinstance(layers[name], nn.Linear) else 1
            yield name, _of_weights(drawn[name], activation, x, gradient, axis)


@torch.no_grad()
def _of_weights(
    dendrites: list[nn.Module], activation: str, x: Tensor, gradient: Tensor, axis: int
) -> Tensor:
    rows = []
    for dendrite in dendrites:
        product = gradient * activate(dendrite(x), activation)
        rows.append(product.movedim(axis, 0).flatten(1).sum(dim=1).double().cpu())
    return torch.stack(rows)


def _draw(layer: nn.Module, config: DendriteConfig) -> nn.Module:
    made = config.dendrite.make(layer).train(layer.training)
    if isinstance(made, Dendrite):
        return made
    draw_anew(made)
    return made


@contextlib.contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    """Train mode inside, as the loss expects; mode and running statistics are restored after."""
    training = network.training
    buffers = {n: b.detach().clone() for n, b in network.named_buffers()}
    network.train()
    try:
        yield
    finally:
        network.train(training)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
