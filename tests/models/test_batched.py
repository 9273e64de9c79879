"""The operations with an axis of tasks: their derivatives against finite differences, their kernels interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap

from kshot_models.batched import Features, Pooling, convolve, everywhere, normalize_activate, scale_activate

REPOSITORY = Path(__file__).resolve().parents[2]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    tensor = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tensor.requires_grad_()


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_a_grouped_one_with_derivatives_of_both_orders(stride: int) -> None:
    inputs, filters = drawn(2, 2, 3, 4, 2), drawn(2, 3, 18, seed=1)
    each = [
        torch.nn.functional.conv2d(
            x.movedim(-1, 1), w.view(3, 3, 3, 2).permute(0, 3, 1, 2), stride=stride, padding=1
        ).movedim(1, -1)
        for x, w in zip(inputs, filters, strict=True)
    ]
    torch.testing.assert_close(convolve(inputs, filters, stride=stride), torch.stack(each), rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x, w: convolve(x, w, stride=stride), (inputs, filters))
    assert gradgradcheck(lambda x, w: convolve(x, w, stride=stride), (inputs, filters))


@pytest.mark.parametrize("pool", [False, True])
def test_normalization_has_the_derivatives_of_both_orders(pool: bool) -> None:
    raw, gain, bias = drawn(2, 3, 3, 3, 2), drawn(2, 2, seed=1), drawn(2, 2, seed=2)
    share = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)

    def out(raw: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return normalize_activate(Features(raw, gain, bias, share), Pooling(pool, 1e-3))[0]

    def moments(raw: Tensor) -> tuple[Tensor, Tensor]:
        return normalize_activate(Features(raw, gain.detach(), bias.detach(), share), Pooling(pool, 1e-3))[1:]

    assert gradcheck(out, (raw, gain, bias))
    assert gradgradcheck(out, (raw, gain, bias))
    assert gradcheck(moments, (raw,))
    assert gradcheck(lambda z, f, s: scale_activate(z, f, s, pool=pool), (raw, gain, bias))


def test_what_has_no_derivative_says_so() -> None:
    features = Features(drawn(1, 2, 2, 2, 1), drawn(1, 1), drawn(1, 1), torch.full((1, 2), 0.5, dtype=torch.float64))

    def thrice(raw: Tensor) -> Tensor:
        def out(z: Tensor) -> Tensor:
            return normalize_activate(features._replace(raw=z), Pooling(False, 1e-3))[0].square().sum()

        return grad(lambda y: grad(lambda z: grad(out)(z).square().sum())(y).square().sum())(raw)

    with pytest.raises(NotImplementedError, match="no third derivative"):
        thrice(features.raw.detach())


def test_mapped_over_tasks_a_shared_filter_is_not_copied() -> None:
    inputs, filters = drawn(3, 1, 2, 4, 4, 1), drawn(1, 2, 9, seed=1)
    mapped = vmap(lambda x: convolve(x, filters, stride=1))(inputs)
    each = torch.stack([convolve(x, filters, stride=1) for x in inputs])
    torch.testing.assert_close(mapped, each, rtol=1e-12, atol=1e-12)


def test_everywhere_ends_with_its_block() -> None:
    from kshot_models.batched import suits  # noqa: PLC0415 - beside what it is about

    exact = torch.zeros(1, dtype=torch.float64)  # for which there are no kernels
    with everywhere():
        assert suits(exact)
    assert not suits(exact)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: its kernels cannot be interpreted")
def test_triton_kernels_are_the_reference() -> None:
    # In a process of its own: Triton decides on import whether kernels are compiled or interpreted.
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "equal"
