"""All sides compute the same: fast weights, answers and second-order meta-gradients agree to rounding."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest
import torch

from kshot_bench.errors import PeerMissing
from kshot_bench.jobs import peer_and_episodes
from kshot_bench.peers.table import ADAPTING, FROZEN, build_peer, require
from kshot_bench.tasks import draw_task, episode_of, learner_of, learner_spec, prototype_spec, stacked
from kshot_bench.work import Work
from kshot_models.tree import under
from kshot_training.meta_gradients import through_adaptation


@pytest.mark.parametrize("name", ADAPTING)
def test_fast_weights_and_answers_agree(name: str, either: Work) -> None:
    learner, meta = learner_of(either, learner_spec(either))
    peer = build_peer(name, either, meta.init)
    for seed in range(2):  # the second time, for what the first one may have left behind
        episode = episode_of(either, draw_task(either, seed))
        with torch.no_grad():
            task = learner.adapt(meta, episode.support, way=either.way)
            logits = learner.predict(meta, task, episode.query.inputs)
        fast = peer.adapt(episode)
        assert fast.keys() == under("weights.", task).keys()
        for key, value in under("weights.", task).items():
            torch.testing.assert_close(fast[key], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(peer.answer(episode), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTING)
def test_meta_gradients_agree(name: str, either: Work) -> None:
    learner, meta = learner_of(either, learner_spec(either, norm="transductive"))
    episodes = [episode_of(either, draw_task(either, seed)) for seed in range(2)]
    ours, _ = through_adaptation()(learner, meta, stacked(episodes), way=either.way, generator=torch.Generator())
    peer = build_peer(name, either, meta.init)
    for _ in range(2):
        theirs = peer.meta_gradient(episodes)
        assert theirs.keys() == ours.init.keys()
        for key, value in ours.init.items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-5)


def test_the_logistic_head_learns_the_task(either: Work) -> None:
    assert FROZEN == ("sklearn",)
    wide = either.model_copy(update={"channels": (16, 32)})  # the mean over positions leaves ResNet-12 one for each
    peer, episodes = peer_and_episodes("sklearn", wide, "cpu")
    answers = peer.answer(episodes[0])
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(either.queries, dtype=answers.dtype))
    assert (answers.argmax(1) == episodes[0].query.targets).all()
    _, meta = learner_of(either, prototype_spec(either))
    assert peer.adapt(episodes[0])["head.weight"].shape[0] == either.way
    assert not meta.inner
    with pytest.raises(NotImplementedError):
        peer.meta_gradient(episodes)


def test_a_missing_peer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_torchopt(name: str) -> ModuleSpec | None:
        return None if name == "torchopt" else found(name)

    require(ADAPTING)
    monkeypatch.setattr(importlib.util, "find_spec", without_torchopt)
    with pytest.raises(PeerMissing, match=r"torchopt is not installed: pip install 'kshot\[bench\]'"):
        require(ADAPTING)
