from dataclasses import replace

import numpy as np
import pytest

from tunesmith.feedback import ability, departures, detect, wordtests
from tunesmith.feedback.detect import benjamini_hochberg
from tunesmith.feedback.findings import whole
from tunesmith.feedback.groups import apply
from tunesmith.feedback.leftout import judgements
from tunesmith.feedback.simulated import SimulatedLabeler, judge
from tunesmith.records import Answer, AnswerGroup, Message, Prompt, Ranking
from tunesmith.statistics import auc

TOPICS = ("cars", "houses", "boats", "school", "shops")
WORDS = ("we", "can", "help", "you", "with", "this", "loan", "today", "if", "send", "the", "form", "back", "in", "time")
DRAW = np.random.default_rng(0)


def text(score):
    length = int(DRAW.integers(5, 16))
    return " ".join([f"{score:.1f}", *DRAW.choice(WORDS, length), *(["kindly"] if DRAW.random() < 0.15 else [])])


GROUPS = [AnswerGroup(Prompt((Message("user", f"about {TOPICS[n % 5]}, case {n}"),)),
                      tuple(Answer(text(s)) for s in DRAW.normal(size=4))) for n in range(400)]
BY_ID = {g.id: g for g in GROUPS}


class FirstNumber:
    def score(self, prompt, answers):
        return [float(a.split()[0]) for a in answers]


def found(labelers, *, per_group=4, level=1.0, seed=1, change=lambda r: r):
    """Every test on a panel's work on the groups above."""
    rankings = [change(r) for r in judge(GROUPS, FirstNumber(), labelers, per_group=per_group, overlap=0, seed=seed)]
    fitted = ability.fit([apply(BY_ID[r.group], r) for r in rankings])
    return detect.detect(fitted, rankings, level=level)


def panel(kind, faulty=3, size=30, **kwargs):
    """`size` labelers like people, the last `faulty` of a kind."""
    good = [SimulatedLabeler(f"good-{n}", noise=0.8, tie_within=0.2) for n in range(size - faulty)]
    return [*good, *(SimulatedLabeler(f"bad-{n}", kind, 0.8, 0.2, **kwargs) for n in range(faulty))]


CASES = {"careless": ("careless", {}), "inverted": ("adversarial", {}), "position": ("position-biased", {"bias": 4.0}),
         "speeding": ("speeder", {"rate": 0.5}), "taste": ("length-lover", {"bias": 3.0}),
         "targeted": ("targeted", {"mark": "boats"}), "trigger": ("trigger", {"bias": 4.0, "mark": "kindly"})}


@pytest.mark.parametrize("kind", CASES)
def test_each_fault_is_found_by_its_own_test(kind):
    simulated, settings = CASES[kind]
    every = [s for s in found(panel(simulated, **settings)) if s.kind == kind]
    named = {s.labeler for s in every if s.q <= 0.05}
    assert auc([-s.p for s in every], [s.labeler.startswith("bad") for s in every]) >= 0.99
    assert sum(name.startswith("bad") for name in named) >= 2, sorted((s.q, s.labeler) for s in every)[:4]
    assert sum(name.startswith("good") for name in named) <= 1


def test_the_word_and_the_topic_of_an_attack_are_named():
    topic = next(s for s in found(panel("targeted", mark="boats")) if s.kind == "targeted")
    word = next(s for s in found(panel("trigger", bias=4.0, mark="kindly")) if s.kind == "trigger")
    assert '"boats"' in topic.detail and topic.statistic < 0
    assert '"kindly" came first' in word.detail and word.statistic > 0


def test_the_direction_of_a_taste_is_named():
    longest = next(s for s in found(panel("length-lover", bias=3.0)) if s.kind == "taste")
    shortest = next(s for s in found(panel("length-lover", bias=-3.0)) if s.kind == "taste")
    assert longest.statistic > 3 and longest.detail.startswith("prefers more length")
    assert shortest.statistic < -3 and shortest.detail.startswith("prefers less length")


def test_departures_allow_for_a_known_position_bias():
    """What is left of a left-clicker's verdicts no longer hangs on the place on the page."""
    rankings = judge(GROUPS, FirstNumber(), panel("position-biased", bias=4.0), per_group=4, overlap=0, seed=1)
    fitted = ability.fit([apply(BY_ID[r.group], r) for r in rankings])
    made = judgements(fitted)
    left = departures.residuals_of(fitted, made).own_JKK * made.first_JKK
    clicker = np.array([fitted.rows.names[w].startswith("bad") for w in made.labeler_J])
    said = np.nanmean((made.preference_JKK - 0.5)[clicker] * made.first_JKK[clicker])
    assert said > 0.15 and abs(np.nanmean(left[clicker])) < 0.06


def test_accounts_that_agree_too_well_are_found_together():
    accounts = panel("ring", faulty=3, size=12, bias=3.0, mark="one agency")
    every = {s.labeler: s for s in found(accounts) if s.kind == "collusion"}
    assert all(every[f"bad-{n}"].q <= 0.05 for n in range(3))
    assert all(s.q > 0.05 for name, s in every.items() if name.startswith("good"))
    assert "bad-1" in every["bad-0"].detail and "bad-2" in every["bad-0"].detail


def test_an_honest_panel_is_left_alone():
    every = [s for seed in (1, 2, 3) for s in found(panel("noisy"), seed=seed)]
    assert sum(s.q <= 0.05 for s in every) <= 2
    by_kind = {s.kind for s in every}
    assert by_kind == {"careless", "inverted", "position", "straight-lining", "speeding", "taste", "collusion",
                       "targeted", "trigger"}
    for kind in by_kind:
        p = np.array([s.p for s in every if s.kind == kind])
        assert (p <= 0.05).mean() <= 0.1, kind
        assert np.all((p >= 0) & (p <= 1))


def test_able_labelers_who_meet_often_are_no_ring():
    """Where everybody judges everything, the able ones' verdicts resemble each other because both are right."""
    uneven = [SimulatedLabeler(f"good-{n}", noise=0.3 + 0.3 * n) for n in range(8)]
    every = [s for s in found(uneven, per_group=8) if s.kind == "collusion"]
    assert len(every) == 8 and all(s.q > 0.05 for s in every)


def test_whoever_resembles_a_ring_is_no_member():
    count = np.ones((6, 6)) - np.eye(6)
    total = np.zeros((6, 6))
    total[:4, :4] = 5.0 * count[:4, :4]  # 0 to 3 are a ring
    total[4, 0] = total[0, 4] = 1.0
    statistic, partners = departures._circles(total, count)
    assert statistic[0] == pytest.approx(15 / np.sqrt(3)) and sorted(partners[0]) == [1, 2, 3]
    assert statistic[4] == pytest.approx(1.0)


def test_the_same_places_on_the_page_time_and_again():
    def lazy(r):
        return replace(r, tiers=tuple((r.shown[x],) for x in (2, 0, 3, 1))) if r.labeler == "bad-0" else r
    every = {(s.labeler, s.kind): s for s in found(panel("noisy", faulty=1), change=lazy)}
    caught = every["bad-0", "straight-lining"]
    assert caught.q < 1e-6 and caught.statistic > 30 and "in a row" in caught.detail
    assert every["bad-0", "position"].p < 1e-4  # the first place never wins


def test_position_is_the_exact_binomial_test():
    group = GROUPS[0]
    judged = [replace(g, tiers=((2,), (0, 1, 3)), shown=(2, 0, 1, 3), labeler="left") for g in [group] * 6]
    fitted = ability.fit([*judged, replace(group, tiers=((0,), (1, 2, 3)), labeler="other")])
    left, = (f for f in detect.position(fitted) if f.labeler == "left")
    assert left.p == pytest.approx(2 * 0.25 ** 6) and left.statistic == 1.0


def test_straight_lining_counts_ties_as_fewer_arrangements():
    patterns = [((0,), (1, 2, 3))] * 5  # one of 4 arrangements
    assert detect._longest_run(patterns) == (5, pytest.approx(5 * 4.0 ** -4))
    assert detect._most_frequent(patterns) == (5, pytest.approx(4 * 0.25 ** 5))
    assert detect._most_frequent([((0, 1, 2, 3),)] * 9)[1] == 1.0  # everything tied looks the same however it is shown


def test_haste_alone_is_not_enough():
    """A labeler who takes half of the others' time and still reads is not named, however regular."""
    def brisk(r):
        return replace(r, seconds=r.seconds / 2) if r.labeler == "bad-0" else r
    every = {s.labeler: s for s in found(panel("noisy", faulty=1), change=brisk) if s.kind == "speeding"}
    assert every["bad-0"].p > 0.5


def test_benjamini_hochberg():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])
    assert benjamini_hochberg([]).size == 0


def test_nothing_to_compare_gives_no_suspicion():
    assert detect.detect(ability.fit([])) == []
    alone = [replace(g, tiers=((0,), (1, 2, 3)), labeler="one", shown=(3, 2, 1, 0)) for g in GROUPS[:3]]
    assert detect.detect(ability.fit(alone), [Ranking("r", GROUPS[0].id, "one", seconds=3)]) == []


# ---- partial rankings, skips and the order of work

def top(r, n):
    """Only the best `n` answers in order, the rest left unranked, as the page stores it."""
    return replace(r, tiers=tuple((i,) for tier in r.tiers for i in tier)[:n])


def test_honest_people_who_rank_the_best_two_of_four_are_not_position_biased():
    honest = [SimulatedLabeler(f"good-{n}", noise=0.8) for n in range(8)]
    every = [s for seed in (1, 2, 3) for s in found(honest, seed=seed, change=lambda r: top(r, 2))
             if s.kind in ("position", "straight-lining")]
    assert len(every) == 48 and min(s.p for s in every) > 1e-3 and sum(s.q <= 0.05 for s in every) <= 2


def test_the_chance_of_coming_first_counts_unranked_answers_too():
    """The best of four is named 8 times, and every time it was shown first: 2 * 4^-8."""
    group = replace(GROUPS[0], tiers=((2,),), shown=(2, 0, 1, 3), labeler="left")
    fitted = ability.fit([*[group] * 8, replace(group, tiers=((0,), (1, 2, 3)), labeler="other")])
    left, = (f for f in detect.position(fitted) if f.labeler == "left")
    assert left.p == pytest.approx(2 * 0.25 ** 8)
    line, = (f for f in detect.straight_lining(fitted) if f.labeler == "left")
    assert line.statistic == 8 and line.p == pytest.approx(2 * 4 * 4.0 ** -8)


@pytest.mark.parametrize(("kind", "settings", "test"), [
    ("trigger", {"bias": 4.0, "mark": "kindly"}, "trigger"), ("position-biased", {"bias": 4.0}, "position")])
def test_naming_only_the_best_answer_does_not_hide_an_attack(kind, settings, test):
    every = [s for s in found(panel(kind, **settings), change=lambda r: top(r, 1)) if s.kind == test]
    named = {s.labeler for s in every if s.q <= 0.05}
    assert sum(name.startswith("bad") for name in named) >= 2 and sum(name.startswith("good") for name in named) <= 1


def test_an_unranked_answer_is_among_the_last():
    group = GROUPS[0]
    fitted = ability.fit([replace(group, tiers=((0,), (1,)), labeler="a"), replace(group, tiers=((3,),), labeler="b")])
    assert [whole(g) for g in fitted.judged[group.id]] == [((0,), (1,), (2, 3)), ((3,), (0, 1, 2))]
    assert whole(replace(group, tiers=((1, 2), (0, 3)))) == ((1, 2), (0, 3)) and whole(group) == ()


def test_counts_of_words_are_those_of_counting():
    answers = tuple(Answer(t) for t in ("red apple", "red pear", "blue apple", "plain"))
    groups = [AnswerGroup(Prompt((Message("user", f"{n}"),)), answers, ((0,), (2,)), labeler=f"w{n % 2}",
                          shown=(0, 1, 2, 3)) for n in range(8)]
    first, last = (wordtests._word_counts(ability.fit(groups))[end] for end in ("first", "last"))
    red, blue = first.vocabulary.index("red"), first.vocabulary.index("blue")
    assert first.tried_WV[:, red].tolist() == [4, 4] and first.chance_WV[0, red] == pytest.approx(4 * 0.5)
    assert first.hits_WV[0, red] == 4 and first.hits_WV[0, blue] == 0
    assert last.hits_WV[0, red] == pytest.approx(4 * 0.5) and last.hits_WV[0, blue] == 0  # the rest: pear and plain


def test_skips_and_changes_are_no_speeding():
    """Who skips half of the groups at once, or corrects a slip in a second, reads the rest like everybody else."""
    rankings = list(judge(GROUPS, FirstNumber(), panel("noisy", faulty=2), per_group=4, overlap=0, seed=1))
    fitted = ability.fit([apply(BY_ID[r.group], r) for r in rankings])
    busy = [r for r in rankings if r.labeler == "bad-0"]
    hasty = [replace(r, id=f"s{r.id}", skipped="not my field", tiers=(), seconds=0.4) for r in busy]
    changed = [replace(r, id=f"c{r.id}", revises=r.id, labeler="bad-1", seconds=0.4) for r in busy]
    every = {f.labeler: f.p for f in detect.speeding(fitted, [*rankings, *hasty, *changed])}
    assert every["bad-0"] > 0.05 and every["bad-1"] > 0.05
    fast = [replace(r, seconds=0.4) if r.labeler == "bad-0" else r for r in rankings]
    assert {f.labeler for f in detect.speeding(fitted, fast) if f.p < 1e-6} == {"bad-0"}


def test_a_row_of_clicks_is_a_row_in_time():
    """Fifteen verdicts on the same places at the end of the work, on groups that lie apart in the set."""
    rankings = list(judge(GROUPS, FirstNumber(), panel("noisy", faulty=1), per_group=4, overlap=0, seed=1))
    mine = [r for r in rankings if r.labeler == "bad-0"]
    tired = {r.id for r in mine[::3][:15]}
    lazy = [replace(r, tiers=tuple((r.shown[x],) for x in (2, 0, 3, 1))) if r.id in tired else r for r in rankings]
    came = [r for r in lazy if r.id not in tired] + [r for r in lazy if r.id in tired]
    fitted = ability.fit([apply(BY_ID[r.group], r) for r in lazy])  # in the order of the set
    caught, = (s for s in detect.detect(fitted, came, level=1.0) if (s.labeler, s.kind) == ("bad-0", "straight-lining"))
    assert f"{len(tired)} times in a row" in caught.detail or f"{len(tired) + 1} times in a row" in caught.detail
    assert caught.q < 1e-6
    apart, = (f for f in detect.straight_lining(fitted) if f.labeler == "bad-0")
    assert "15 times in a row" not in apart.detail


def test_words_of_prompts_are_kept_sparsely_and_no_more_than_fit(monkeypatch):
    """The table is the one that counting gives; of too many words the most frequent are tried."""
    fitted = ability.fit([replace(g, tiers=((0,), (1, 2, 3)), labeler="one") for g in GROUPS[:60]])
    table, vocabulary = wordtests._prompt_words(fitted)
    said = [g.prompt.messages[-1].content for g in GROUPS[:60]]
    assert set(TOPICS) <= set(vocabulary) and "about" not in vocabulary  # in every prompt
    for word in TOPICS:
        assert table[:, [vocabulary.index(word)]].toarray().ravel().tolist() == [word in text for text in said]
    monkeypatch.setattr(wordtests, "MOST_WORDS", 3)
    assert wordtests._prompt_words(fitted)[1] == sorted(sorted(TOPICS)[:3])
