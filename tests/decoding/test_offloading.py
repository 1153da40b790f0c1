"""Draft models that leave the device: the text stays, moves are few and counted."""

import pytest

from adaspec_rl.decoding.drafters import DraftModel, NgramLookup, Offloading, summon
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.host_copy import HostCopy
from tests.decoding.test_drafters import lean

FIRST, SECOND = Action(3, 0), Action(3, 1)


class Slow(HostCopy):
    """Copies that take until `arrive` was asked three times."""

    asked = 0

    def fetch(self):
        self.asked = 0
        super().fetch()

    def arrive(self, wait=False):
        self.asked += 1
        if self.coming and not wait and self.asked < 3:
            return False
        return super().arrive(wait)


def session_of(target, drafters, temperature=0.0, tokens=120):
    return LiveSession(
        target,
        drafters,
        max_new_tokens=tokens,
        sampling=Sampling(temperature),
        verification="coupled",
    )


def play(session, actions, prompt=(1, 2, 3), seed=0):
    """The rounds of `actions`, repeated until the text ends."""
    session.start(prompt, seed)
    rounds = []
    while session.finished is None:
        rounds.append(session.step(actions[len(rounds) % len(actions)]))
    return rounds


def two(target):
    return [DraftModel(lean(seed, layers=1), target.vocab_size, name=f"d{seed}") for seed in (1, 2)]


def offloaded(drafters, *, idle_rounds=5, limit=None):
    made = Offloading(idle_rounds=idle_rounds, limit=limit)
    for drafter in drafters:
        made.add(drafter)
    return made


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("copies", [HostCopy, Slow])
def test_the_text_is_the_same_wherever_the_drafters_are(monkeypatch, temperature, limited, copies):
    monkeypatch.setattr("adaspec_rl.decoding.drafters.offloading.HostCopy", copies)
    target = lean()
    plain = session_of(target, [], temperature)
    play(plain, [FALLBACK])
    drafters = two(target)
    size = HostCopy(drafters[0].model).bytes
    memory = offloaded(drafters, idle_rounds=3, limit=size if limited else None)
    session = session_of(target, [*drafters, NgramLookup()], temperature)
    schedule = [FIRST, FIRST, SECOND, FALLBACK, Action(4, 2), FALLBACK, FALLBACK, SECOND]
    rounds = play(session, schedule)
    assert session.tokens == plain.tokens
    assert memory.moves > 2 and memory.moved == memory.moves * size
    assert any(played.drafted for played in rounds)


def test_one_that_is_not_used_leaves_and_comes_back_when_it_is():
    target = lean()
    drafters = two(target)
    memory = offloaded(drafters)
    session = session_of(target, drafters)
    session.start([1, 2, 3])
    for _ in range(4):
        session.step(FIRST)
    assert memory.resident == ["d1", "d2"]
    session.step(FIRST)
    assert memory.resident == ["d1"] and not memory.moves
    assert session.step(SECOND).drafted == 3
    assert memory.resident == ["d1", "d2"] and memory.moves == 1


def test_rounds_are_plain_until_it_has_arrived(monkeypatch):
    monkeypatch.setattr("adaspec_rl.decoding.drafters.offloading.HostCopy", Slow)
    target = lean()
    drafters = two(target)
    memory = offloaded(drafters, idle_rounds=2)
    session = session_of(target, drafters)
    session.start([1, 2, 3])
    session.step(FIRST)
    session.step(FIRST)
    assert memory.resident == ["d1"]
    assert [session.step(SECOND).drafted for _ in range(4)] == [0, 0, 3, 3]
    assert memory.moves == 1  # asked for three times, fetched once


def test_where_there_is_room_for_one_the_other_makes_way():
    target = lean()
    drafters = two(target)
    size = HostCopy(drafters[0].model).bytes
    memory = offloaded(drafters, idle_rounds=100, limit=size)
    assert memory.resident == ["d1"]  # the first named
    session = session_of(target, drafters)
    play(session, [FIRST, SECOND])
    assert len(memory.resident) == 1 and memory.moves > 10


def test_it_is_there_at_once_for_who_waits():
    target = lean()
    drafters = two(target)
    memory = offloaded(drafters, limit=HostCopy(drafters[0].model).bytes)
    for drafter, other in (drafters, drafters[::-1]):
        summon(drafter)
        assert memory.resident == [drafter.name] != [other.name]
    summon(NgramLookup())


def test_a_drafter_that_can_never_fit_is_refused():
    target = lean()
    drafter = two(target)[0]
    with pytest.raises(ValueError, match="model.memory_limit leaves"):
        Offloading(idle_rounds=1, limit=1000).add(drafter)
    with pytest.raises(ValueError, match="idle_rounds must be at least 1, got 0"):
        Offloading(idle_rounds=0)
