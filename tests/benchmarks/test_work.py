"""Operations and bytes by formula: against torch's own counter, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kshot_bench.peers.autograd_loop import AutogradLoop
from kshot_bench.peers.network import forward
from kshot_bench.tasks import draw_task, episode_of, learner_of, learner_spec
from kshot_bench.work import Cost, Layer, Work, adaptation_cost, encoding_cost, layers, meta_gradient_cost, query_cost


def counted(call: object) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


SMALL = {"way": 3, "shot": 2, "steps": 2, "queries": 4, "size": 20}


@pytest.mark.parametrize(
    "work",
    [
        Work(),
        Work(**SMALL, channels=(4, 6)),
        Work(**SMALL, network="resnet12", channels=(4, 6), input_channels=3),
    ],
)
def test_formulas_are_what_torch_counts(work: Work) -> None:
    _, meta = learner_of(work, learner_spec(work))
    episode = episode_of(work, draw_task(work, 0))
    peer = AutogradLoop(work, meta.init)
    head = layers(work)[-1].flops
    # The peer's pass for the moments goes through the head as well, which nobody needs.
    extra = work.support * head
    assert counted(lambda: peer.answer(episode)) == adaptation_cost(work).flops + query_cost(work).flops + extra
    with torch.no_grad():
        queries = counted(lambda: forward(meta.init, episode.query.inputs))
    assert queries == query_cost(work).flops
    assert encoding_cost(work, work.queries).flops == queries - work.queries * head
    # In the second derivative of a convolution torch makes the gradient of the images too, which nobody needs.
    extra = work.steps * work.support * sum(layer.flops for layer in layers(work) if layer.reads_images)
    assert counted(lambda: peer.meta_gradient([episode])) == meta_gradient_cost(work).flops + extra


def test_the_reference_work() -> None:
    assert [layer.flops for layer in layers(Work())] == [903168, 14450688, 3612672, 663552, 640]
    assert adaptation_cost(Work()).flops + query_cost(Work()).flops == pytest.approx(1.84e9, rel=2e-3)


def test_resnet12_by_hand() -> None:
    work = Work(network="resnet12", size=84, input_channels=3)
    assert work.channels == (64, 160, 320, 640)
    # 3.52 billion multiplications an image, as counters of the published code say.
    assert encoding_cost(work, 1).flops == 2 * (
        84**2 * (9 * (3 * 64 + 2 * 64**2) + 3 * 64)
        + 42**2 * (9 * (64 * 160 + 2 * 160**2) + 64 * 160)
        + 21**2 * (9 * (160 * 320 + 2 * 320**2) + 160 * 320)
        + 10**2 * (9 * (320 * 640 + 2 * 640**2) + 320 * 640)
    )
    assert layers(work)[-1] == Layer(1, 640, 5, 640)
    first = [layer.reads_images for layer in layers(work)]
    assert first == [True, False, False, True, *[False] * 13]


def test_a_work_item_from_before_there_were_networks_is_conv4() -> None:
    old = Work().model_dump(mode="json")
    del old["network"]
    assert Work.model_validate(old) == Work(network="conv4", channels=(64, 64, 64, 64), rate=0.1)


def test_bytes_are_each_operand_once() -> None:
    layer = Layer(positions=4, fan_in=18, outputs=3, inputs=8)
    assert layer.flops == 2 * 4 * 18 * 3
    assert layer.bytes(images=10) == 4 * (10 * 8 + 10 * 4 * 3 + 18 * 3)
    work = Work(way=2, queries=1, size=2, channels=(3,))
    conv, head = layers(work)
    assert query_cost(work).bytes == conv.bytes(1) + head.bytes(1)
    assert adaptation_cost(work).bytes == 5 * (2 * conv.bytes(2) + 3 * head.bytes(2)) + conv.bytes(2)
    assert meta_gradient_cost(work).bytes == 5 * (4 * conv.bytes(2) + 9 * head.bytes(2)) + 2 * conv.bytes(1) + 3 * (
        head.bytes(1)
    )


def test_costs_add_up() -> None:
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="take a larger --size"):
        layers(Work(size=8))
