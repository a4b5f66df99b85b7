"""The question bank: its format, its links, its figures, and the cards that are made of it."""

import copy
import hashlib
import re
import sqlite3
import zipfile
from itertools import combinations
from pathlib import Path

import book_facts
import book_questions
import book_quiz
import book_text
import nbformat
import pytest
import test_prose
import yaml

from tools import cards

ROOT = Path(__file__).resolve().parents[1]


BANK = book_questions.read_all(ROOT)
FACTS = book_facts.load(ROOT)
ALL = [question for questions in BANK.values() for question in questions]
TEXTS = ("question", "short", "long", "wrong", "why")
WORDS = {  # at least and at most, of each text
    "question": (4, 60),
    "short": (15, 60),
    "long": (70, 220),
    "wrong": (8, 45),
    "why": (15, 80),
}
FOUNDING = {
    "principle-of-the-transformer",
    "how-self-attention-works",
    "gpt2-pretraining-task",
    "gpt2-training-process",
    "gpt2-performance-on-tasks",
}
ROLE = re.compile(r"\{([\w:-]+)\}`(?:[^`<]*<)?([^`>]+)>?`")
LABEL = re.compile(r"^\(([\w:-]+)\)=\n+#+ ", re.MULTILINE)
each_chapter = pytest.mark.parametrize("chapter", list(BANK))


def words(text):
    return re.sub(r"[*`$]", "", book_text.ROLE.sub(r"\2", text)).split()


def faults(question, notebook, facts):
    """What is wrong with a question of a chapter, a sentence each."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    known = {number for cell in code for number in test_prose.printed(cell)}
    labels = {label for cell in notebook.cells for label in LABEL.findall(cell.source)}
    if question["link"] not in labels:
        yield f"no section {question['link']}"
    if question["cell"] not in [cell.id for cell in code]:
        yield f"no code cell {question['cell']}"
    for key in TEXTS:
        text, (least, most) = question[key], WORDS[key]
        if not least <= len(words(text)) <= most:
            yield f"{key} has {len(words(text))} words"
        yield from (f"{key}: {fault}" for fault in test_prose.fact_faults(text, facts))
        for written, value, scale, decimals in test_prose.numbers(text):
            if not test_prose.is_small(value, scale):
                if not any(test_prose.says(value, scale, decimals, source) for source in known):
                    yield f"{key}: no cell of the chapter prints {written}"
        roles = {role for role, _ in ROLE.findall(text)}
        allowed = {"fact", "cite", "term", "ref"} if key in ("long", "why") else {"fact"}
        if roles - allowed:
            yield f"{key} has {roles - allowed}, which a card cannot show"


def alike(a, b):
    """Which share of their words two questions have in common."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(a & b) / len(a | b)


@each_chapter
def test_questions_keep_to_the_format_link_to_what_exists_and_say_what_was_shown(chapter):
    notebook = nbformat.read(ROOT / f"chapters/{chapter}.ipynb", 4)
    found = {q["id"]: list(faults(q, notebook, FACTS)) for q in BANK[chapter]}
    assert not any(found.values()), {name: said for name, said in found.items() if said}


@each_chapter
def test_each_chapter_shows_its_questions(chapter):
    notebook = nbformat.read(ROOT / f"chapters/{chapter}.ipynb", 4)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert f"```{{interview}} {chapter}\n```" in text
    pages = "\n".join(p.read_text(encoding="utf-8") for p in ROOT.glob("questions_*.md"))
    assert pages.count(chapter) == 1


def test_there_are_enough_and_the_founding_five_are_among_them():
    ids = [question["id"] for question in ALL]
    assert len(BANK) == 17 and len(ids) >= 120
    assert len(set(ids)) == len(ids) and set(ids) >= FOUNDING
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ids)


def test_no_two_questions_are_alike():
    quizzes = [q for path in ROOT.glob("questions/*.yml") for q in book_quiz.read(path)]
    texts = [question["question"] for question in ALL + quizzes]
    close = [(a, b) for a, b in combinations(texts, 2) if alike(a, b) > 0.6]
    assert close == []


# This reader, tested ------------------------------------------------------------------------

SOUND = {
    "id": "a-question",
    "question": "How large is the loss here?",
    "link": "here",
    "cell": "the-cell",
    "difficulty": 2,
    "short": "The loss is 0.19 nats a token, " + "and that is what was printed " * 2 + "above.",
    "long": "It is {fact}`124 million <model.size>` in {cite}`name2020`. " + "So it goes on. " * 20,
    "wrong": "I would say that nobody knows what the loss is.",
    "why": "It is printed by a cell, which prints 0.1923, and so it is known to everybody here.",
}


def notebook():
    cells = [
        nbformat.v4.new_markdown_cell("(here)=\n## Here"),
        nbformat.v4.new_code_cell("print(loss)", id="the-cell"),
        nbformat.v4.new_markdown_cell("(there)=\n## There"),
        nbformat.v4.new_code_cell("print(1)", id="other"),
    ]
    cells[1].outputs = [nbformat.v4.new_output("stream", text="loss 0.1923\n")]
    return nbformat.v4.new_notebook(cells=cells)


LEDGER = {"model.size": {"value": 124439808}}


def test_a_sound_question_has_no_fault():
    assert list(faults(SOUND, notebook(), LEDGER)) == []


@pytest.mark.parametrize(
    ("key", "old", "new", "fault"),
    [
        ("link", "here", "nowhere", "no section"),
        ("cell", "the-cell", "no-cell", "no code cell no-cell"),
        ("short", "0.19", "0.23", "no cell of the chapter prints 0.23"),
        ("long", "124 million", "125 million", "not 125 million"),
        ("long", "model.size", "model.width", "not in the ledger"),
        ("wrong", "I would say that nobody knows what", "What is", "words"),
        ("short", "above", "{ref}`there`", "which a card cannot show"),
    ],
)
def test_a_question_with_a_fault_is_noticed(key, old, new, fault):
    assert old in SOUND[key]
    bad = {**SOUND, key: SOUND[key].replace(old, new)}
    assert fault in " ".join(faults(bad, notebook(), LEDGER))


def test_questions_that_are_alike_are_noticed():
    assert alike("Why is the score divided by D?", "Why is the score divided by √D here?") > 0.6
    assert alike("Why is the score divided by D?", "What does attention know of order?") < 0.3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bank: bank.clear(), "no list"),
        (lambda bank: bank[0].pop("why"), "a question has"),
        (lambda bank: bank[0].update(difficulty=6), "from 1 to 5"),
        (lambda bank: bank[0].update(long=""), "an answer is missing"),
    ],
)
def test_a_bank_that_breaks_the_format_is_refused(tmp_path, change, said):
    bank = [copy.deepcopy(SOUND)]
    path = tmp_path / "01_x.yml"
    path.write_text(yaml.safe_dump({"bank": bank}, sort_keys=False))
    assert book_questions.read(path) == bank
    change(bank)
    path.write_text(yaml.safe_dump({"bank": bank}, sort_keys=False))
    with pytest.raises(ValueError, match=said):
        book_questions.read(path)


# Cards -----------------------------------------------------------------------------------------


def notes(path, folder):
    """The fields and tags of a deck's notes, read from its database."""
    with zipfile.ZipFile(path) as deck:
        deck.extract("collection.anki2", folder)
    with sqlite3.connect(folder / "collection.anki2") as base:
        rows = base.execute("select flds, tags, guid from notes order by id").fetchall()
    base.close()
    return [(fields.split("\x1f"), tags.split(), guid) for fields, tags, guid in rows]


def test_a_deck_has_a_card_for_each_question_and_the_same_bytes_each_time(tmp_path):
    paths = [tmp_path / name for name in ("a.apkg", "b.apkg")]
    assert [cards.write(path, BANK) for path in paths] == [len(ALL)] * 2
    a, b = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert a == b
    found = notes(paths[0], tmp_path)
    assert len({guid for *_, guid in found}) == len(found) == len(ALL)
    for (fields, tags, _), question in zip(found, ALL):
        assert fields[0] == book_text.html(question["question"])
        assert f"difficulty::{question['difficulty']}" in tags
        assert not re.search(r"\{\w+\}`|(?<!\\)\$", "".join(fields)), fields


def test_other_answers_come_with_a_later_edition():
    """Anki takes over a changed answer only if its date is later."""
    found = cards.fingerprint(BANK)
    assert found == cards.FINGERPRINT, f"tools/cards.py: a later EDITION, and {found}"


def test_another_answer_is_the_same_card_and_another_deck(tmp_path):
    one = {"01_x": [copy.deepcopy(SOUND)]}
    cards.write(tmp_path / "a.apkg", one)
    (before,) = notes(tmp_path / "a.apkg", tmp_path)
    one["01_x"][0]["short"] = "Something else."
    cards.write(tmp_path / "b.apkg", one)
    (after,) = notes(tmp_path / "b.apkg", tmp_path)
    assert before[2] == after[2] and before[0] != after[0]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* `c<d` **e**", "a <em>b</em> <code>c&lt;d</code> <strong>e</strong>"),
        (r"$\sqrt{D}$ and $a_b < c_d$", r"\(\sqrt{D}\) and \(a_b &lt; c_d\)"),
        ("{fact}`124 million <model.size>` of them", "124 million of them"),
        ("{term}`logits <logit>` and {term}`head`", "logits and head"),
        ("as known {cite}`name2020`.", "as known."),
        ("two\nlines", "two lines"),
    ],
)
def test_a_card_shows_what_the_page_shows(text, html):
    assert book_text.html(text) == html
