"""Storyworld: its probabilities are exact, its grammar has one reading, its answers are true."""

import re
from collections import Counter
from itertools import pairwise
from math import exp, fsum, inf, isclose, log

import numpy as np
import pytest
import regex

from gpt2lib.grammar import COLOURS, PLACES, Choice, an
from gpt2lib.storyworld import World, pieces

WORLD = World(0)
STORIES = WORLD.stories(300, seed=11)
GPT2_PATTERN = (  # openai/gpt-2, src/encoder.py
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)


def plain(choice: Choice) -> list[str]:
    """Its phrases without the marks of what they tell."""
    return [re.sub(r"\[.*?\]", "", phrase) for phrase in choice.phrases]


@pytest.mark.parametrize("seed", range(3))
def test_reading_finds_the_probability_that_telling_drew(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        told = list(WORLD._tell(rng))
        text = "".join(phrase for phrase, _ in told)
        drawn = fsum(log(c.probabilities[plain(c).index(phrase)]) for phrase, c in told)
        assert isclose(WORLD.log_prob(text), drawn, rel_tol=1e-12)


def test_no_phrase_of_a_choice_begins_with_another_so_there_is_one_reading():
    rng = np.random.default_rng(1)
    for _ in range(300):
        for _, choice in WORLD._tell(rng):
            split = sorted(pieces(phrase) or [""] for phrase in plain(choice))
            # In sorted order a prefix stands right before something that it begins.
            for one, next_ in pairwise(split):
                assert next_[: len(one)] != one, (one, next_)


def test_phrases_meet_at_the_seams_of_pieces():
    rng = np.random.default_rng(2)
    for _ in range(100):
        phrases = [phrase for phrase, _ in WORLD._tell(rng)]
        apart = [p for phrase in phrases for p in pieces(phrase)]
        assert pieces("".join(phrases)) == apart


def test_pieces_are_what_gpt2_splits_off():
    for text in STORIES:
        assert pieces(text) == regex.findall(GPT2_PATTERN, text)


def test_what_may_come_next_sums_to_one():
    vocabulary = {p for text in STORIES for p in pieces(text)} | {""}
    rng = np.random.default_rng(3)
    for text in STORIES[:12]:
        split = [*pieces(text), ""]
        at = int(rng.integers(len(split)))
        before = "".join(split[:at])
        total = 0.0
        for piece in vocabulary:
            read = WORLD.surprisal(before + piece)
            if len(read) > at and read[at][0] == piece:
                total += exp(-read[at][1])
        assert isclose(total, 1.0, rel_tol=1e-9), (before[-40:], total)


def test_surprisal_is_the_log_prob_taken_apart():
    for text in STORIES[:50]:
        read = WORLD.surprisal(text)
        assert "".join(piece for piece, _ in read) == text and read[-1][0] == ""
        assert isclose(-fsum(nats for _, nats in read), WORLD.log_prob(text))
        assert all(nats >= 0 for _, nats in read)


def test_entropy_is_the_mean_surprise_of_a_document():
    surprise = [-WORLD.log_prob(text) for text in WORLD.stories(2000, seed=4)]
    entropy, error = WORLD.entropy(1000)
    spread = np.std(surprise) / len(surprise) ** 0.5
    assert abs(np.mean(surprise) - entropy) < 4 * (spread**2 + error**2) ** 0.5
    assert error < np.std(surprise) / 1000**0.5, "summing entropies should spread less"


def test_the_frequencies_of_first_words_are_their_probabilities():
    firsts = Counter(pieces(text)[0] for text in WORLD.stories(3000, seed=5))
    for piece, count in firsts.items():
        p = exp(-WORLD.surprisal(piece)[0][1])
        assert abs(count / 3000 - p) < 4 * (p * (1 - p) / 3000) ** 0.5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t[:-1],  # cut short
        lambda t: t + ".",  # goes on after the end
        lambda t: t.replace(" named", " whose name was", 1).replace(" called", " not", 1),
        lambda t: t.upper(),
        lambda t: "",
        lambda t: "Call me Ishmael.",
        lambda t: t + "\n",
        lambda t: t.replace(" a", " 7 a", 1),
        lambda t: t.replace(" a", " ' a", 1),
        lambda t: t.replace(" a", "  a", 1),
        lambda t: t.replace("a", "á", 1),
        lambda t: re.sub(r"\n.*", "", t, flags=re.S),  # no task
    ],
)
def test_what_the_world_cannot_say_has_probability_zero(spoil):
    for text in STORIES[:20]:
        assert WORLD.log_prob(spoil(text)) == -inf


def test_a_wrong_colour_far_from_its_source_is_impossible():
    changed = 0
    for text in STORIES:
        split = list(pieces(text))
        for recall in WORLD.recall_positions(text):
            if recall.kind == "colour":
                wrong = next(c for c in COLOURS if c != recall.piece.strip())
                lie = [*split[: recall.index], " " + wrong, *split[recall.index + 1 :]]
                assert WORLD.log_prob("".join(lie)) == -inf
                changed += 1
    assert changed > 200


def test_an_impossible_piece_is_the_last_that_is_read():
    text = STORIES[0].replace(" had", " ate", 1)
    read = WORLD.surprisal(text)
    assert read[-1] == (" ate", inf) and all(nats < inf for _, nats in read[:-1])


# ---------------------------------------------------------------- the stories are true


def simulate(story: str) -> tuple[dict, dict, dict]:
    """Who has, who owns, and where each thing lies, by regular expressions: a second reading."""
    has, owns, lies = {}, {}, {}

    def give(noun, person, own=False):
        has[noun] = person
        lies.pop(noun, None)
        if own:
            owns[noun] = person

    hero, noun1, noun2 = re.search(
        r"(?:named|called) (\w+),.*? had an? \w+ (\w+) and an? \w+ (\w+)\.", story
    ).groups()
    friend, noun3 = re.search(
        r"(?:friend was|neighbour was|summer (?:s?he) met) (\w+), a \w+ (?:with|who carried) "
        r"an? \w+ (\w+)\.",
        story,
    ).groups()
    for noun, person in ((noun1, hero), (noun2, hero), (noun3, friend)):
        give(noun, person, own=True)
    place = "|".join(PLACES)
    for sentence in re.findall(r"[^.]+\.", story):
        if m := re.search(r"(\w+) (gave|lent) the (?:\w+ )?(\w+) to (\w+)\.", sentence):
            give(m[3], m[4], own=m[2] == "gave")
        elif m := re.search(r"(\w+) borrowed the (?:\w+ )?(\w+) from (\w+)\.", sentence):
            assert has[m[2]] == m[3]
            give(m[2], m[1])
        elif m := re.search(r"(\w+) swapped the (?:\w+ )?(\w+) for (\w+)'s (\w+)\.", sentence):
            assert has[m[2]] == m[1] and has[m[4]] == m[3]
            give(m[2], m[3], own=True)
            give(m[4], m[1], own=True)
        elif m := re.search(rf"(\w+) (?:lost|hid) the (?:\w+ )?(\w+) ({place})\.", sentence):
            assert has[m[2]] == m[1]
            has[m[2]], lies[m[2]] = "nobody", m[3]
        elif m := re.search(rf"(\w+) found the (?:\w+ )?(\w+) ({place})\.", sentence):
            assert lies[m[2]] == m[3]
            give(m[2], m[1])
    m = re.search(r"(?:At last|In the end) (\w+) needed the (\w+)\.", story)
    give(m[2], m[1])
    return has, owns, lies


def test_answers_agree_with_a_second_reading_of_the_story():
    asked = Counter()
    for text in WORLD.stories(600, seed=6):
        story, _, rest = text.partition("\n")
        has, owns, lies = simulate(story)
        for question, noun, answer in re.findall(
            r"(Who has|Where is|Who owns) the (\w+)\?\nA: (.+)", rest
        ):
            where = lies.get(noun) or f"with {has[noun]}"
            truth = {"Who has": has[noun], "Where is": where, "Who owns": owns[noun]}[question]
            assert answer == truth, text
            asked[question] += 1
        for noun, answer in re.findall(r"What colour is the (\w+)\?\nA: (\w+)", rest):
            assert f"{an(answer).strip()} {noun}" in story
            asked["colour"] += 1
        for job, answer in re.findall(r"Who is the (\w+)\?\nA: (\w+)", rest):
            assert re.search(rf"{answer}, (?:a|the) {job}|{job} (?:named|called) {answer}", story)
            asked["job"] += 1
    assert min(asked.values()) > 20 and len(asked) == 5, asked


def test_dialogues_say_you_and_me_of_the_right_people():
    seen = Counter()
    for text in WORLD.stories(800, seed=7):
        story, _, rest = text.partition("\n")
        if m := re.match(r"(\w+): (\w+), where is", rest):
            has, _, lies = simulate(story)
            asker, teller = m.groups()
            for noun, where in re.findall(r": The \w+ (\w+) is (.+)\.", rest):
                names = {"with you": asker, "with me": teller}
                truth = lies.get(noun) or has[noun]
                assert names.get(where, where.removeprefix("with ")) == truth, text
                seen[where.split()[-1] if where in names else "else"] += 1
    assert min(seen.values()) > 5 and len(seen) == 3, seen


def test_translations_are_word_for_word_in_another_order():
    zorb = WORLD.zorb
    assert len(set(zorb.values())) == len(zorb)
    lines = [
        line
        for text in STORIES
        for line in re.findall(r"\n(\w+) (\w+) the (\w+) (\w+) (.+) = (.+)", text)
    ]
    assert len(lines) > 50
    for who, verb, colour, noun, place, answer in lines:
        expected = f"{zorb[noun]} {zorb[colour]} {zorb[place]} {who} {zorb[verb]}"
        assert answer.removesuffix(".") == expected


def test_every_task_of_the_paper_is_there_and_its_answer_is_certain():
    kinds = Counter()
    for text in STORIES:
        read = WORLD.surprisal(text)
        ends = np.cumsum([len(piece) for piece, _ in read])
        tasks = WORLD.tasks(text)
        assert tasks
        for task in tasks:
            kinds[task.kind] += 1
            assert text.startswith(task.prompt + task.answer)
            inside = (ends > len(task.prompt)) & (ends <= len(task.prompt + task.answer))
            assert all(read[i] == (read[i][0], 0.0) for i in np.flatnonzero(inside) if read[i][0])
    assert set(kinds) == {"summary", "question", "dialogue", "translation"}


def test_recalls_are_certain_and_count_back_to_where_the_fact_was_told():
    distances = Counter()
    for text in STORIES:
        read = WORLD.surprisal(text)
        for recall in WORLD.recall_positions(text):
            assert read[recall.index] == (recall.piece, 0.0)
            assert 0 < recall.distance <= recall.index
            distances[recall.distance // 25] += 1
            if recall.kind == "place":
                assert read[recall.index - recall.distance][0] == recall.piece
    assert all(distances[d] > 20 for d in range(4)), "near and far: 1 to 100 words"


def test_what_changes_hands_is_told_and_not_recalled():
    given = 0
    for text in STORIES:
        read = [piece for piece, _ in WORLD.surprisal(text)]
        recalled = [recall.index for recall in WORLD.recall_positions(text)]
        assert len(set(recalled)) == len(recalled), "one fact a piece"
        before = ["".join(read[:i]) for i in recalled]
        assert not any(re.search(r" (gave|lent) the [a-z ]+ to$", b) for b in before)
        given += len(re.findall(r" (gave|lent) the ", text))
    assert given > 100


# ---------------------------------------------------------------- stories, as stories


def test_stories_have_60_to_250_words_of_a_few_hundred():
    words = [len(text.split()) for text in STORIES]
    assert 60 <= min(words) and max(words) <= 250
    vocabulary = {word for text in STORIES for word in re.findall(r"[A-Za-z]+", text)}
    assert 150 < len(vocabulary) < 400


def test_articles_are_right_and_no_pause_comes_twice():
    for text in STORIES:
        assert not re.search(r"\ba [aeiou]\w+|\ban [^aeiou]", text, re.I)
        story = text.partition("\n")[0]
        sentences = Counter(re.findall(r"[A-Z][^.]*\.", story))
        pauses = ("It rained", "The wind", "Snow", "Nobody", "Far away", "The road", "Everyone l")
        assert all(n == 1 for s, n in sentences.items() if s.startswith(pauses))


def test_the_same_seed_tells_the_same_stories_and_another_world_speaks_otherwise():
    assert World(0).stories(5, seed=9) == World(0).stories(5, seed=9)
    assert World(0).stories(5, seed=9) != World(0).stories(5, seed=8)
    assert World(0).stories(5, seed=9) != World(1).stories(5, seed=9)
    assert World(0).zorb != World(1).zorb


def test_choices_are_not_uniform():
    names = Counter(re.search(r"(?:named|called) (\w+)", text)[1] for text in STORIES)
    assert max(names.values()) > 4 * min(names.values())


def test_validity_is_the_share_that_the_world_could_have_said():
    assert WORLD.validity([STORIES[0], STORIES[1], "Once there was a", "A cat."]) == 0.5
    with pytest.raises(ValueError, match="at least one sample"):
        WORLD.validity([])


class Characters:
    """A tokenizer as plain as can be."""

    def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]


def test_the_floor_is_exact_for_given_stories_and_near_its_expectation():
    given = WORLD.floor(Characters(), STORIES)
    nats = -fsum(WORLD.log_prob(text) for text in STORIES)
    n_bytes = sum(len(text) for text in STORIES)
    assert isclose(given.nats_per_token, nats / (n_bytes + len(STORIES)))
    assert isclose(given.bits_per_byte, nats / n_bytes / log(2)) and given.standard_error == 0
    expected = WORLD.floor(Characters())
    assert 0 < expected.standard_error < 0.01 * expected.nats_per_token
    assert abs(expected.nats_per_token - given.nats_per_token) < 0.02 * given.nats_per_token


def test_a_choice_knows_its_entropy():
    assert isclose(Choice(("a", "b", "c", "d")).entropy(), log(4))
    assert isclose(Choice({"a": 3, "b": 1}).entropy(), -0.75 * log(0.75) - 0.25 * log(0.25))
