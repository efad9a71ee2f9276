"""``DendriticLayer`` against its formula, written with separate layers; scripts, exports, bf16."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from perforated_monai.dendrites.layer import DendriticLayer

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "identity": lambda x: x,
}

# name: layer, input shape
KINDS = {
    "conv1d": (lambda **o: nn.Conv1d(4, 6, 3, padding=1, **o), (2, 4, 11)),
    "conv2d": (lambda **o: nn.Conv2d(4, 6, 3, padding=1, **o), (2, 4, 9, 10)),
    "conv3d": (lambda **o: nn.Conv3d(4, 6, 3, padding=1, **o), (2, 4, 6, 7, 8)),
    "transposed1d": (lambda **o: nn.ConvTranspose1d(4, 6, 3, padding=1, **o), (2, 4, 9)),
    "transposed2d": (lambda **o: nn.ConvTranspose2d(4, 6, 3, padding=1, **o), (2, 4, 6, 7)),
    "transposed3d": (lambda **o: nn.ConvTranspose3d(4, 6, 3, padding=1, **o), (2, 4, 4, 5, 6)),
    "linear": (lambda **o: nn.Linear(4, 6, **o), (2, 3, 4)),
}
CONVOLUTIONS = [k for k in KINDS if k.startswith("conv")]
TRANSPOSED = [k for k in KINDS if k.startswith("transposed")]

# Options of the layer, and the kinds that take them.
OPTIONS = [
    ({"bias": False}, list(KINDS)),
    ({"stride": 2}, CONVOLUTIONS + TRANSPOSED),
    ({"dilation": 2}, CONVOLUTIONS + TRANSPOSED),
    ({"groups": 2}, CONVOLUTIONS + TRANSPOSED),
    ({"groups": 2, "stride": 2, "dilation": 2, "bias": False}, CONVOLUTIONS + TRANSPOSED),
    ({"padding_mode": "circular", "groups": 2}, CONVOLUTIONS),
    ({"stride": 2, "output_padding": 1, "groups": 2}, TRANSPOSED),
]


def build(
    kind: str, count: int, activation: str, dtype: torch.dtype = torch.float64, **options: object
) -> tuple[DendriticLayer, list[nn.Module], Tensor, Tensor, Tensor]:
    """A layer with random weights everywhere: fused, apart, w, v, and an input."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    template = make(**options).to(dtype)
    layers = [copy.deepcopy(template) for _ in range(count + 1)]
    for layer in layers:
        layer.reset_parameters()
    fused = DendriticLayer(template, count, activation)
    w = torch.randn(count, 6, dtype=dtype)
    v = torch.randn(count * (count - 1) // 2, 6, dtype=dtype)
    fused.load_branches(layers, w, v)
    return fused, layers, w, v, torch.randn(shape, dtype=dtype)


def formula(layers: list[nn.Module], w: Tensor, v: Tensor, f, x: Tensor) -> Tensor:
    """y = main(x) + Σ w_i·f(a_i), a_i = dendrite_i(x) + Σ_{j<i} v_ij·f(a_j)."""
    main, *dendrites = layers
    trailing = 0 if isinstance(main, nn.Linear) else x.dim() - 2

    def per_channel(weight: Tensor) -> Tensor:
        return weight.reshape(-1, *[1] * trailing)

    a: list[Tensor] = []
    for i, dendrite in enumerate(dendrites):
        first_row = i * (i - 1) // 2
        rows = v[first_row : first_row + i]
        earlier = [per_channel(rows[j]) * f(a[j]) for j in range(i)]
        a.append(sum(earlier, dendrite(x)))
    return sum([per_channel(w[i]) * f(a[i]) for i in range(len(a))], main(x))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula(kind: str, activation: str, count: int) -> None:
    fused, layers, w, v, x = build(kind, count, activation)
    expected = formula(layers, w, v, ACTIVATIONS[activation], x)
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-6)
    assert (expected - layers[0](x)).abs().max() > 0.1  # the dendrites matter
    before = x.clone()
    with torch.no_grad():  # the sum is done in place here
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "kind, options", [(kind, options) for options, kinds in OPTIONS for kind in kinds]
)
def test_equals_the_formula_with_options(kind: str, options: dict[str, object]) -> None:
    fused, layers, w, v, x = build(kind, 3, "tanh", **options)
    expected = formula(layers, w, v, torch.tanh, x)
    assert fused(x).shape == layers[0](x).shape
    torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-6)


def test_equals_the_formula_with_padding_by_name() -> None:
    template = nn.Conv2d(2, 6, 4, padding="same").double()
    layers = [copy.deepcopy(template) for _ in range(2)]
    layers[1].reset_parameters()
    fused = DendriticLayer(template, 1, "relu")
    w, v = torch.randn(1, 6).double(), torch.zeros(0, 6).double()
    fused.load_branches(layers, w, v)
    x = torch.randn(1, 2, 7, 9).double()
    torch.testing.assert_close(fused(x), formula(layers, w, v, torch.relu, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"groups": 2, "stride": 2}, {"padding_mode": "reflect"}])
def test_one_sample_in_float32_without_gradients(options: dict[str, object]) -> None:
    """A batch of one takes another convolution path on the CPU."""
    fused, layers, w, v, x = build("conv3d", 3, "sigmoid", torch.float32, **options)
    double = [copy.deepcopy(m).double() for m in layers]
    expected = formula(double, w.double(), v.double(), torch.sigmoid, x.double())
    with torch.no_grad():
        for i in range(len(x)):
            out = fused(x[i : i + 1])
            torch.testing.assert_close(out.double(), expected[i : i + 1], rtol=0, atol=1e-5)


def test_linear_takes_any_leading_axes() -> None:
    fused, layers, w, v, _ = build("linear", 2, "sigmoid")
    for shape in [(4,), (5, 4), (2, 3, 5, 4)]:
        x = torch.randn(shape, dtype=torch.float64)
        expected = formula(layers, w, v, torch.sigmoid, x)
        torch.testing.assert_close(fused(x), expected, rtol=0, atol=1e-6)


def test_fresh_dendrites_add_nothing() -> None:
    layer = nn.Conv3d(2, 4, 3)
    fused = DendriticLayer(layer, 2)
    x = torch.randn(1, 2, 6, 6, 6)
    main = fused.fused(x)[:, :4]
    assert torch.equal(fused(x), main)


def test_output_does_not_depend_on_train_or_eval_mode() -> None:
    fused, *_, x = build("conv2d", 2, "sigmoid")
    assert torch.equal(fused.train()(x), fused.eval()(x))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["conv3d", "transposed3d", "linear"])
def test_scripts(kind: str, groups: int) -> None:
    options = {} if kind == "linear" else {"groups": groups}
    fused, *_, x = build(kind, 3, "relu", **options)
    scripted = torch.jit.script(fused)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    torch.testing.assert_close(loaded(x), fused(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scripts_with_every_activation(activation: str) -> None:
    fused, *_, x = build("conv1d", 2, activation)
    torch.testing.assert_close(torch.jit.script(fused)(x), fused(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dynamic", [Dim.DYNAMIC, Dim.AUTO], ids=["DYNAMIC", "AUTO"])
@pytest.mark.parametrize(
    "kind, options",
    [("conv3d", {"groups": 2}), ("conv2d", {"stride": 2}), ("transposed3d", {"stride": 2})],
)
def test_exports_with_any_batch_and_size(kind: str, options: dict, dynamic: object) -> None:
    fused, *_, x = build(kind, 2, "sigmoid", **options)
    free = {axis: dynamic for axis in range(x.dim()) if axis != 1}
    program = torch.export.export(fused.eval(), (x,), dynamic_shapes=(free,))
    other = torch.randn(3, 4, *[n + 3 for n in x.shape[2:]], dtype=x.dtype)
    exported = program.module()
    torch.testing.assert_close(exported(x), fused(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(exported(other), fused(other), rtol=0, atol=1e-12)


def test_exports_linear_with_any_batch() -> None:
    fused, *_, x = build("linear", 2, "tanh")
    program = torch.export.export(fused, (x,), dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.AUTO},))
    other = torch.randn(5, 7, 4, dtype=x.dtype)
    torch.testing.assert_close(program.module()(other), fused(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3])
def test_state_dict_round_trip_is_strict_and_exact(count: int) -> None:
    fused, *_, x = build("transposed2d", count, "sigmoid", groups=2)
    fresh = DendriticLayer(nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2).double(), count)
    fresh.load_state_dict(fused.state_dict(), strict=True)
    assert torch.equal(fresh(x), fused(x))
    assert all(isinstance(t, Tensor) for t in fused.state_dict().values())


@pytest.mark.parametrize("kind", ["conv3d", "transposed2d", "linear"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(kind: str, dtype: torch.dtype) -> None:
    fused, layers, w, v, x = build(kind, 3, "sigmoid", dtype=dtype)
    assert {p.dtype for p in fused.parameters()} == {dtype}
    out = fused(x)
    assert out.dtype == dtype
    double = [copy.deepcopy(m).double() for m in layers]
    expected = formula(double, w.double(), v.double(), torch.sigmoid, x.double())
    torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.1)


def test_autocast_stays_bf16() -> None:
    fused, *_, x = build("conv3d", 3, "sigmoid", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fused(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), fused(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_reach_every_parameter(groups: int) -> None:
    fused, *_, x = build("conv3d", 3, "sigmoid", groups=groups)
    fused(x).pow(2).sum().backward()
    for name, p in fused.named_parameters():
        assert p.grad is not None and (p.grad != 0).all(), name


def test_gradients_are_those_of_the_formula() -> None:
    fused, layers, w, v, x = build("conv2d", 3, "tanh")
    w, v = w.requires_grad_(), v.requires_grad_()
    fused(x).pow(2).sum().backward()
    formula(layers, w, v, torch.tanh, x).pow(2).sum().backward()
    torch.testing.assert_close(fused.to_output.grad, w.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fused.between.grad, v.grad, rtol=1e-9, atol=1e-9)
    apart = torch.cat([layer.weight.grad for layer in layers])
    torch.testing.assert_close(fused.fused.weight.grad, apart, rtol=1e-9, atol=1e-9)


def test_the_template_is_copied_not_shared() -> None:
    template = nn.Conv2d(2, 6, 3)
    before = template.weight.clone()
    fused = DendriticLayer(template, 1)
    with torch.no_grad():
        fused.fused.weight.add_(1)
    assert torch.equal(template.weight, before)
    assert template.out_channels == 6


def test_refuses_other_layers() -> None:
    with pytest.raises(TypeError, match="BatchNorm3d"):
        DendriticLayer(nn.BatchNorm3d(2), 1)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_refuses_a_count_that_is_no_positive_whole_number(count: object) -> None:
    with pytest.raises(ValueError, match=r"count must be .*>= 1; got"):
        DendriticLayer(nn.Linear(2, 2), count)


@pytest.mark.parametrize("activation", ["gelu", "Sigmoid", "", None])
def test_refuses_an_unknown_activation(activation: object) -> None:
    with pytest.raises(ValueError, match="activation must be sigmoid"):
        DendriticLayer(nn.Linear(2, 2), 1, activation)


def test_refuses_branches_that_do_not_fit() -> None:
    fused, layers, w, v, _ = build("conv2d", 2, "relu")
    with pytest.raises(ValueError, match="1 main layer and 2 dendrites; got 2"):
        fused.load_branches(layers[:2], w, v)
    with pytest.raises(RuntimeError):
        fused.load_branches([*layers[:2], nn.Conv2d(4, 6, 5).double()], w, v)
