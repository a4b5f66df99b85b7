"""Make an Anki deck of the question bank: the same bytes from the same questions.

    python make.py cards [OUT]

OUT is _build/gpt2.apkg unless you name another file. A card is known by its question's id, so a
deck that is imported again keeps what was learned, and takes over answers that have changed if
EDITION is later.
"""

import hashlib
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import genanki

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
import book_questions  # noqa: E402
from book_text import html  # noqa: E402

EDITION = datetime(2026, 11, 28, tzinfo=UTC)  # a later day whenever FINGERPRINT must change
FINGERPRINT = "992fde588ad807a6"  # of what stands on the cards
CSS = """.card { font: 20px/1.5 serif; max-width: 36em; margin: auto; padding: 1em; }
.small { font-size: .85em; border-top: 1px solid #8886; margin-top: 1em; padding-top: .6em; }
code { background: #8882; padding: 0 .2em; }"""
FRONT = "{{Question}}"
BACK = (
    "{{FrontSide}}<hr id=answer>{{Answer}}"
    '<div class="small"><b>One often hears:</b> “{{Wrong}}” {{Why}}</div>'
)


def number(name: str) -> int:
    """A number for Anki, always the same for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def deck(bank: dict[str, list[dict]]) -> genanki.Deck:
    """A deck with a card a question, in the order of the book, tagged by chapter."""
    model = genanki.Model(
        number("gpt2 model"),
        "GPT-2, Built and Measured",
        fields=[{"name": name} for name in ("Question", "Answer", "Wrong", "Why")],
        templates=[{"name": "Card", "qfmt": FRONT, "afmt": BACK}],
        css=CSS,
    )
    cards = genanki.Deck(number("gpt2 deck"), "GPT-2, Built and Measured")
    for chapter, questions in bank.items():
        for question in questions:
            note = genanki.Note(
                model=model,
                fields=[html(question[key]) for key in ("question", "short", "wrong", "why")],
                tags=[f"chapter::{chapter}", f"difficulty::{question['difficulty']}"],
                guid=genanki.guid_for("gpt2", question["id"]),
            )
            cards.add_note(note)
    return cards


def fingerprint(bank: dict[str, list[dict]]) -> str:
    """Of the fields of all cards."""
    fields = "\n".join(field for note in deck(bank).notes for field in note.fields)
    return hashlib.sha256(fields.encode()).hexdigest()[:16]


def write(path: Path, bank: dict[str, list[dict]]) -> int:
    """Write the deck to path; the number of its cards."""
    cards = deck(bank)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        loose = Path(folder) / "deck.apkg"
        genanki.Package(cards).write_to_file(str(loose), timestamp=EDITION.timestamp())
        with zipfile.ZipFile(loose) as old, zipfile.ZipFile(path, "w") as new:
            for name in sorted(old.namelist()):  # a zip file has dates: give all the same
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return len(cards.notes)


def main(arguments: list[str]) -> None:
    path = Path(arguments[0]) if arguments else ROOT / "_build" / "gpt2.apkg"
    count = write(path, book_questions.read_all(ROOT))
    print(f"{count} cards in {path}: in Anki, File, Import.")


if __name__ == "__main__":
    main(sys.argv[1:])
