"""ResNet-12 against torch.nn's layers with the same weights, finite differences; and the published size."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from kshot_models.artifact import save_artifact
from kshot_models.errors import SpecInvalid, TensorShapeMismatch
from kshot_models.learners import GradientLearner
from kshot_models.load import load, meta_to_arrays
from kshot_models.manifest import InputSpec, LearnerSpec, Limits, Manifest, NormMode
from kshot_models.networks import Network, resnet12
from kshot_models.per_step import is_norm
from kshot_models.registry import build_learner
from kshot_models.serving import serving
from kshot_models.tree import meta_map
from kshot_models.types import Examples, MetaParams, Params

CHANNELS = (2, 3, 3, 4)
INPUT = InputSpec(height=16, width=35, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)  # 35-17-8-4-2
SPEC: dict[str, object] = {
    "type": "gradient",
    "network": {"type": "resnet12", "channels": CHANNELS, "readout": "flatten"},
    "head": {"type": "shared"},
    "inner": [{"type": "sgd", "rate": 0.1}],
    "steps": 2,
}


class Stage(nn.Module):
    """As the papers' code has it: activation first, then pooling."""

    def __init__(self, inside: int, outside: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1, bias=False)
        self.norm1, self.norm2, self.norm3, self.norm_shortcut = (_norm(norm, outside) for _ in range(4))
        self.act, self.pool = nn.LeakyReLU(0.1), nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.norm1(self.conv1(images)))
        features = self.act(self.norm2(self.conv2(features)))
        features = self.norm3(self.conv3(features)) + self.norm_shortcut(self.conv_shortcut(images))
        pooled: Tensor = self.pool(self.act(features))
        return pooled


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(1, channels)
    return nn.BatchNorm2d(channels, momentum=None)  # the running moments are plain means over the batches that it saw


def reference(params: Params, norm: str) -> nn.Sequential:
    """The stages as modules, with these weights."""
    net = nn.Sequential()
    for i, (inside, outside) in enumerate(pairwise((INPUT.channels, *CHANNELS)), start=1):
        net.add_module(f"stage{i}", Stage(inside, outside, norm))
    missing, unknown = net.double().load_state_dict(
        {name.replace(".gain", ".weight"): p for name, p in params.items()}, strict=False
    )
    assert not unknown
    assert all("running" in name or "tracked" in name for name in missing)
    return net


def made(norm: NormMode = "support", readout: Literal["flatten", "mean"] = "flatten") -> tuple[Network, Params]:
    """A network in double precision, all of its parameters random."""
    network = resnet12(INPUT, norm, channels=CHANNELS, readout=readout, norm_groups=1)
    generator = torch.Generator().manual_seed(1)
    params = network.init(torch.Generator().manual_seed(0))
    return network, {n: p.double() + 0.3 * torch.rand(p.shape, generator=generator) for n, p in params.items()}


def images(count: int = 6, seed: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 35, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["support", "group"])
@pytest.mark.parametrize("readout", ["flatten", "mean"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_features_are_those_of_torchs_layers(
    norm: NormMode, readout: Literal["flatten", "mean"], layout: torch.memory_format
) -> None:
    network, params = made(norm, readout)
    features, _ = network.apply(params, images().contiguous(memory_format=layout), weights=None, moments=None)
    last = reference(params, norm)(images())
    assert last.shape == (6, 4, 1, 2)
    expected = last.flatten(1) if readout == "flatten" else last.mean((2, 3))
    assert features.shape == (6, network.features)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)


def test_queries_are_normalized_by_the_moments_of_the_support_set() -> None:
    network, params = made()
    _, used = network.apply(params, images(), weights=None, moments=None)
    norms = ("norm1", "norm2", "norm3", "norm_shortcut")
    assert used.keys() == {f"stage{i}.{n}.{m}" for i in range(1, 5) for n in norms for m in ("mean", "variance")}
    answered, again = network.apply(params, images(3, seed=5), weights=None, moments=used)
    net = reference(params, "support")
    buffers = {
        name.replace(".mean", ".running_mean").replace(".variance", ".running_var"): m for name, m in used.items()
    }
    expected = functional_call(net.eval(), buffers, images(3, seed=5)).flatten(1)
    torch.testing.assert_close(answered, expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(again[name], used[name]) for name in used)
    # Torch's own running moments of that batch, which are unbiased.
    net.train()(images())
    running = dict(net.named_buffers())
    torch.testing.assert_close(running["stage2.norm_shortcut.running_mean"], used["stage2.norm_shortcut.mean"])
    unbiased = used["stage2.norm_shortcut.variance"] * (6 * 8 * 17) / (6 * 8 * 17 - 1)
    torch.testing.assert_close(running["stage2.norm_shortcut.running_var"], unbiased)


def test_without_norms_convolutions_have_biases() -> None:
    network, params = made("none")
    features = images()
    for i in range(1, 5):
        own = {name.removeprefix(f"stage{i}."): p for name, p in params.items() if name.startswith(f"stage{i}.")}

        def layer(x: Tensor, name: str, own: Params = own) -> Tensor:
            convolved = nn.functional.conv2d(x, own[f"conv{name}.weight"], own[f"conv{name}.bias"], padding="same")
            return convolved * own[f"norm{name}.gain"][:, None, None] + own[f"norm{name}.bias"][:, None, None]

        body = features
        for name in "12":
            body = torch.where(layer(body, name) > 0, layer(body, name), 0.1 * layer(body, name))
        total = layer(body, "3") + layer(features, "_shortcut")
        features = nn.functional.max_pool2d(torch.where(total > 0, total, 0.1 * total), 2)
    torch.testing.assert_close(network.apply(params, images(), weights=None, moments=None)[0], features.flatten(1))
    assert not any(name.endswith(".bias") and ".conv" in name for name in made("support")[1])


def test_examples_of_weight_zero_do_not_count() -> None:
    network, params = made()
    alone, used = network.apply(params, images()[:4], weights=None, moments=None)
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64)
    padded, moments = network.apply(params, images(), weights=weights, moments=None)
    torch.testing.assert_close(padded[:4], alone, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moments, used, rtol=1e-10, atol=1e-10)


def support(seed: int = 0, dtype: torch.dtype = torch.float64) -> Examples:
    return Examples(images(6, seed).to(dtype), torch.arange(6) % 3, torch.ones(6, dtype=dtype))


def learner(dtype: torch.dtype = torch.float64, **more: object) -> tuple[GradientLearner, MetaParams]:
    built = build_learner(LearnerSpec.model_validate({**SPEC, **more}), INPUT)
    assert isinstance(built, GradientLearner)
    return built, meta_map(lambda p: p.to(dtype), built.init(torch.Generator().manual_seed(3)))


def support_loss(channels: tuple[int, ...] = CHANNELS) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The loss of an inner step by all weights, and weights."""
    built, meta = learner(network={"type": "resnet12", "channels": channels})
    fast, fixed = built.start(meta, support(), 3)

    def loss(*values: Tensor) -> Tensor:
        changing = dict(zip(fast, values, strict=True))
        return built.support_loss(changing, fixed, support(), torch.ones(3, dtype=torch.float64))

    return loss, tuple(value.clone().requires_grad_() for value in fast.values())


def test_derivatives_of_the_support_loss_equal_finite_differences() -> None:
    # Steps so small that they turn no LeakyReLU and no maximum.
    assert torch.autograd.gradcheck(*support_loss(), eps=1e-7, atol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(*support_loss((2, 3)), eps=1e-7, atol=1e-4, fast_mode=True)


# Torch's own import of what it differentiates forward with.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_the_forward_derivative_of_the_support_loss_equals_a_finite_difference() -> None:
    loss, at = support_loss()
    at = tuple(p.detach() for p in at)
    generator = torch.Generator().manual_seed(4)
    direction = tuple(torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in at)
    slope = jvp(loss, at, direction)[1]
    ahead, behind = (loss(*(p + step * d for p, d in zip(at, direction, strict=True))) for step in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)


def test_tasks_at_once_are_tasks_one_by_one_and_as_the_server_answers() -> None:
    built, meta = learner()
    supports, queries = [support(seed) for seed in range(3)], torch.stack([images(4, seed) for seed in range(7, 10)])

    def solve(some: Examples, inputs: Tensor) -> Tensor:
        return built.predict(meta, built.adapt(meta, some, way=3), inputs)

    together = vmap(solve)(Examples(*(torch.stack(parts) for parts in zip(*supports, strict=True))), queries)
    alone = torch.stack([solve(*task) for task in zip(supports, queries, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    with serving():
        served = torch.stack([solve(*task) for task in zip(supports, queries, strict=True)])
    torch.testing.assert_close(served, alone, rtol=1e-9, atol=1e-9)


def test_each_step_may_have_its_own_gains_and_moments() -> None:
    built, meta = learner(norm="per_step", per_step_gains=True)
    gains = [name for name in meta.init if "norm" in name]
    assert len(gains) == 4 * 4 * 2
    assert all(is_norm(name) and not built.adapts(name) and len(meta.init[name]) == 2 for name in gains)
    assert not any(is_norm(name) for name in meta.init if "conv" in name)
    assert meta.stats["stage3.norm_shortcut.mean"].shape == (2, 3)
    task = built.adapt(meta, support(), way=3)
    assert torch.equal(task["moments.stage4.norm3.variance"], torch.ones(4, dtype=torch.float64))


def test_the_artifact_gives_the_same_answers_and_refuses_other_shapes(tmp_path: Path) -> None:
    built, meta = learner(torch.float32)
    spec = LearnerSpec.model_validate(SPEC)
    manifest = Manifest(name="net", version="1", learner=spec, input=INPUT, limits=Limits(max_way=3, max_support=6))
    arrays = {name: value.numpy() for name, value in meta_to_arrays(meta).items()}
    save_artifact(tmp_path / "net" / "1", manifest, arrays)
    loaded = load(tmp_path / "net" / "1")
    some, inputs = support(dtype=torch.float32), images(4).float()
    expected = built.predict(meta, built.adapt(meta, some, way=3), inputs)
    task = loaded.learner.adapt(loaded.meta_params, some, way=3)
    assert torch.equal(loaded.learner.predict(loaded.meta_params, task, inputs), expected)
    (name,) = [name for name in arrays if name.endswith("body.stage2.conv_shortcut.weight")]
    save_artifact(
        tmp_path / "net" / "2", manifest.model_copy(update={"version": "2"}), arrays | {name: arrays[name][:1]}
    )
    with pytest.raises(TensorShapeMismatch, match="conv_shortcut"):
        load(tmp_path / "net" / "2")


def test_the_published_sizes() -> None:
    spec = InputSpec(height=84, width=84, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = resnet12(spec, "support")
    # 12.4 million, as reported for the network of MetaOptNet: its convolutions and two numbers for each normed channel.
    assert sum(p.numel() for p in network.init(torch.Generator().manual_seed(0)).values()) == 12_424_320
    assert network.features == 640
    assert resnet12(spec, "support", readout="flatten").features == 640 * 5 * 5


def test_an_input_that_four_halvings_leave_nothing_of_is_refused() -> None:
    small = INPUT.model_copy(update={"height": 15})
    with pytest.raises(ValueError, match="4 stages leave nothing of the input"):
        resnet12(small, "support")
    with pytest.raises(SpecInvalid, match="network 'resnet12': 4 stages leave nothing"):
        build_learner(LearnerSpec.model_validate(SPEC), small)
