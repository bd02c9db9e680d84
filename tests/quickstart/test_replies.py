import random
from statistics import mean

from tunesmith.quickstart import rubric
from tunesmith.quickstart.customers import sample, variety
from tunesmith.quickstart.grammar import expand
from tunesmith.quickstart.replies import AVERAGE, EXCELLENT, demonstrations, population, write


def verdicts(pairs):
    return [rubric.check(s, r) for s, r in pairs]


def test_the_excellent_agent_keeps_the_guidelines():
    pairs = [(s, write(s, EXCELLENT, random.Random(s.id))) for s in sample("train", 600, seed=0)]
    found = verdicts(pairs)
    assert mean(v.adherence for v in found) > 0.99
    assert not any(v.rude or v.avoidable_handover or v.garbled or v.wrong_rate for v in found)
    assert all(v.words <= 55 for v in found)


def test_the_average_agent_is_average():
    pairs = demonstrations(1500, seed=0)
    found = verdicts(pairs)
    assert 0.62 < mean(v.adherence for v in found) < 0.70
    assert 0.14 < mean(v.handover for v in found if not v.handover_required) < 0.22
    rude = {p: mean(v.rude for (s, _), v in zip(pairs, found) if s.provocative == p) for p in (True, False)}
    assert rude[False] < 0.03 < rude[True] < 0.2


def test_demonstrations_are_deterministic_and_varied():
    pairs = demonstrations(800, seed=3)
    assert pairs[:20] == demonstrations(20, seed=3)
    assert variety(r for _, r in pairs)["duplicates"] < 0.04


def test_an_agent_at_fault_is_found_out_guideline_by_guideline():
    """Breaking one guideline lowers that guideline's share and leaves its neighbours up."""
    scenarios = sample("train", 400, seed=1)
    for fault in ("exact_rate", "disclosure", "no_promise", "identity", "person", "courtesy", "next_step"):
        style = AVERAGE.__class__(**(EXCELLENT.__dict__ | {fault: 0.0}))
        found = verdicts((s, write(s, style, random.Random(s.id))) for s in scenarios)
        kept = [v.guidelines[fault] for v in found if v.guidelines[fault] is not None]
        others = [x for v in found for g, x in v.guidelines.items() if g != fault and x is not None]
        assert mean(kept) < 0.85, fault
        assert mean(others) > 0.93, fault


def test_the_population_ranges_from_careful_to_careless():
    rng = random.Random(0)
    means = sorted(
        mean((a.answer, a.courtesy, a.next_step, a.disclosure)) for a in (population(rng) for _ in range(300))
    )
    assert means[0] < 0.25 and means[-1] > 0.75


def test_expand_takes_one_alternative_at_every_level():
    found = {expand("[a|[b|c] {x}], yes", {"x": "z"}, random.Random(i)) for i in range(60)}
    assert found == {"a, yes", "b z, yes", "c z, yes"} or found == {"A, yes", "B z, yes", "C z, yes"}
