"""Work that idle threads help with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch

from kshot_models.inner.transformation import Rates
from kshot_models.native import descent, meeting, team
from kshot_models.native.blocks import Keep, Sizes, forward, moments_in
from kshot_models.native.descent import Classes, Descent, Start
from kshot_models.sharing import Lend, helped_by, shared_out


@pytest.fixture
def lend() -> Iterator[Lend]:
    with ThreadPoolExecutor(3) as threads:
        yield lambda works: [threads.submit(work) for work in works] if len(works) <= 3 else None


def test_work_is_shared_among_as_many_as_were_asked_for(lend: Lend) -> None:
    seen: list[tuple[int, int]] = []
    here = threading.get_ident()
    all_of_them = threading.Barrier(4)

    def work(member: int) -> None:
        all_of_them.wait(10)
        seen.append((member, threading.get_ident()))

    assert not shared_out(lambda: work, 4)  # nobody has offered help
    with helped_by(lend):
        assert shared_out(lambda: work, 4)
        assert not shared_out(lambda: work, 5)
        with helped_by(None):
            assert not shared_out(lambda: work, 2)
    assert [member for member, _ in sorted(seen)] == [0, 1, 2, 3]
    assert (0, here) in seen
    assert len({thread for _, thread in seen}) == 4
    assert not shared_out(lambda: work, 2)


@pytest.mark.parametrize("who", [0, 1])
def test_what_any_of_them_raises_is_raised_when_all_have_ended(lend: Lend, who: int) -> None:
    ended = threading.Event()

    def work(member: int) -> None:
        if member == who:
            raise ZeroDivisionError
        ended.wait(0.05)
        ended.set()

    with helped_by(lend), pytest.raises(ZeroDivisionError):
        shared_out(lambda: work, 2)
    assert ended.is_set()


def test_who_cannot_make_the_work_leaves_no_helper_waiting(lend: Lend) -> None:
    helpers: list[Future[None]] = []

    def remembered(works: Sequence[Callable[[], None]]) -> Sequence[Future[None]] | None:
        helpers.extend(lend(works) or [])
        return helpers

    def make() -> Callable[[int], None]:
        raise ZeroDivisionError

    with helped_by(remembered), pytest.raises(ZeroDivisionError):
        shared_out(make, 3)
    assert [helper.done() for helper in helpers] == [True, True]
    assert not shared_out(make, 2)  # nobody has offered help, and nothing is made


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_descent(
    *,
    way: int,
    images: tuple[int, ...],
    outside: tuple[int, ...],
    pool: bool = True,
    mean: bool = False,
    some: bool = False,
) -> Callable[[], list[torch.Tensor]]:
    """Three steps on random numbers; with `some`, weights have rates of their own and some filters stay."""
    n, height, width, inside = images
    sizes = Sizes(images, outside, 1, pool, Keep.ALL)
    params = list[torch.Tensor]()
    for number, channels in enumerate(outside):
        below = (inside, *outside)[number]
        params += [drawn(channels, 3, 3, below, seed=number) * (2 / (9 * below)) ** 0.5]
        params += [1 + 0.1 * drawn(channels, seed=10 + number), 0.1 * drawn(channels, seed=20 + number)]
    down = 2 ** len(outside) if pool else 1
    features = outside[-1] * (1 if mean else (height // down) * (width // down))
    params += [0.1 * drawn(way, features, seed=30), 0.1 * drawn(way, seed=31)]
    rates: list[Rates | None] = [
        Rates(torch.tensor([0.4, 0.2, 0.1]), 1 + 0.1 * drawn(*p.shape, seed=40 + i) if some else None)
        for i, p in enumerate(params)
    ]
    if some:
        rates[3] = None
    weights = torch.ones(n)
    weights[-1] = 0.0 if some else 1.0
    share = weights / weights.sum()
    classes = Classes(np.arange(n) % way, share.numpy(), np.ones(way, np.float32))
    given = drawn(1, *images, seed=50).numpy(), share[None].numpy()
    arrays = [each.numpy() for each in params]
    by_step = [None if rate is None else rate.by_step.numpy() for rate in rates]
    by_weight = [None if rate is None or rate.by_weight is None else rate.by_weight.numpy() for rate in rates]

    def descended() -> list[torch.Tensor]:
        start = Start.of(arrays[:-2], by_step, by_weight)
        steps = Descent(*given, start, (arrays[-2], arrays[-1]), classes, sizes, 1e-5, mean=mean, moments=True)
        steps.run()
        found = steps.result()
        for number, channels in enumerate(outside):
            assert [len(each) for each in found.moments[2 * number : 2 * number + 2]] == [channels, channels]
        values, _ = forward(*given, found.params[:-2], sizes, 1e-5)
        for each, expected in zip(found.moments, moments_in(values, sizes), strict=True):
            assert np.array_equal(each, expected)
        return [torch.from_numpy(each) for each in (*found.params, *found.moments)]

    return descended


DESCENTS = {
    "5-way 1-shot": {"way": 5, "images": (5, 28, 28, 1), "outside": (64, 64, 64, 64)},
    "several parts": {"way": 3, "images": (21, 28, 28, 1), "outside": (32, 64)},
    "more channels than terms of a sum": {"way": 5, "images": (7, 20, 11, 3), "outside": (32, 160, 32)},
    "no pooling": {"way": 4, "images": (4, 7, 9, 8), "outside": (32, 32), "pool": False, "mean": True},
    "some weights, rates of their own": {"way": 5, "images": (6, 12, 12, 1), "outside": (32, 32), "some": True},
}


@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("name", DESCENTS)
def test_threads_that_share_a_descent_find_what_one_finds_bit_for_bit(
    name: str, members: int, lend: Lend, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_steps = a_descent(**DESCENTS[name])  # type: ignore[arg-type]
    alone = take_steps()
    helped: list[int] = []

    def counted(works: Sequence[Callable[[], None]]) -> Sequence[Future[None]] | None:
        helped.append(len(works))
        return lend(works)

    monkeypatch.setattr(descent, "_TEAMS", (members,))
    with helped_by(counted):
        together = take_steps()
    assert helped == [members - 1]
    for one, other in zip(together, alone, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


def test_what_cannot_be_shared_is_computed_by_one(lend: Lend) -> None:
    sizes = Sizes(torch.Size((5, 28, 28, 1)), (64, 64, 64, 64), 1, True, Keep.ALL)
    assert team.suits(sizes, 2)
    assert team.suits(sizes, 4)
    assert not team.suits(sizes._replace(stride=2, pool=False), 2)
    assert not team.suits(sizes._replace(outside=(64, 64, 24, 64)), 2)
    assert not team.suits(sizes._replace(images=(4, 28, 28, 1)), 2)  # 36 positions: see FEW_POSITIONS
    take_steps = a_descent(way=2, images=(4, 6, 6, 1), outside=(8, 8))
    alone = take_steps()
    with helped_by(lend):
        assert all(map(torch.equal, take_steps(), alone))


def test_a_member_that_fails_keeps_nobody_waiting(lend: Lend, monkeypatch: pytest.MonkeyPatch) -> None:
    take_steps = team.take_steps

    def fails(table: object, member: int, *others: object) -> None:
        if member == 1:
            raise MemoryError
        take_steps(table, member, *others)  # type: ignore[call-arg, arg-type]

    monkeypatch.setattr(team, "take_steps", fails)
    with helped_by(lend), pytest.raises(MemoryError):
        a_descent(**DESCENTS["5-way 1-shot"])()  # type: ignore[arg-type]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def meet_now(arrivals: int, members: int) -> None:
    meeting.meet(arrivals, members)


def test_those_who_meet_see_what_all_wrote_before() -> None:
    arrivals, written = np.zeros(1, np.int64), [0, 0, 0]

    def work(member: int) -> list[int]:
        seen = []
        for round_ in range(1, 40):
            written[member] = round_
            meet_now(arrivals.ctypes.data, 3)
            seen.append(min(written))
            meet_now(arrivals.ctypes.data, 3)
        return seen

    with ThreadPoolExecutor(3) as threads:
        for seen in threads.map(work, range(3)):
            assert seen == list(range(1, 40))
    assert arrivals[0] == 2 * 39 * 3
