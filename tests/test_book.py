"""What the pages are made of: the ledger, the questions, the drawings, the look.

The build itself (-W -n) finds missing files, labels, terms and citations; here is what it
does not see.
"""

import io
import json
import re
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import book_cite
import book_facts
import book_formulas
import book_problems
import book_quiz
import book_reading
import matplotlib
import numpy as np
import pybtex.database
import pytest
import yaml
from book_nodes import make_fold
from docutils import nodes

ROOT = Path(__file__).resolve().parents[1]

FACTS = book_facts.load(ROOT)
QUESTIONS = sorted(ROOT.glob("questions/*.yml"))
NOTEBOOKS = sorted(ROOT.glob("chapters/*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]  # the others are appendices
MAP = ROOT / "_static/model-map.svg"
DARK = (0x14, 0x17, 0x1C)  # --pst-color-background of book.css, by night
LIGHT = (0xFF, 0xFE, 0xFB)  # and by day


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


# The ledger -----------------------------------------------------------------------------


def test_every_fact_has_a_value_and_a_source_in_the_bibliography():
    entries = set(re.findall(r"^@\w+\{(\w+),", text("references.bib"), re.MULTILINE))
    for key, fact in FACTS.items():
        assert re.fullmatch(r"[a-z0-9]+(\.\w+)+", key), key
        assert {"value", "source"} <= set(fact) <= {"value", "unit", "source", "note"}, key
        assert type(fact["value"]) in (int, float, str), key
        assert fact["source"].partition(",")[0] in entries, key


def test_no_key_of_the_ledger_is_written_twice():
    keys = re.findall(r"^([\w.]+):", text("chapters/facts.yml"), re.MULTILINE)
    assert sorted(keys) == sorted(FACTS)


def test_every_fact_is_shown_once_on_its_page():
    prefixes = " ".join(re.findall(r"\{facts-(?:table|grid)\} (.+)", text("facts.md"))).split()
    for key in FACTS:
        assert sum(f"{key}.".startswith(f"{prefix}.") for prefix in prefixes) == 1, key


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("124,439,808", 124439808),
        ("124439808", 124439808),
        ("124 million", 124439808),
        ("about 1.56 billion parameters", 1557611200),
        ("63.24%", 63.24),
        ("63.2", 63.24),
        ("−1", -1),
        ("5 BLEU", 5),
        ("6e-4", 0.0006),
        ("gelu", "GELU"),
        ("30 to 50", "30 to 50"),
    ],
)
def test_a_quotation_may_format_and_round_the_ledger(shown, value):
    assert book_facts.agrees(shown, value)


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("124,439,809", 124439808),
        ("125 million", 124439808),
        ("2 billion", 1557611200),
        ("124", 124439808),
        ("63.3", 63.24),
        ("63.240001", 63.24),
        ("1", -1),
        ("6", 5.5),
        ("ReLU", "GELU"),
        ("many", 5),
        ("6e-5", 0.0006),
        ("5 of 8", 5),
    ],
)
def test_a_quotation_may_not_differ_from_the_ledger(shown, value):
    assert not book_facts.agrees(shown, value)


def test_the_counts_of_the_ledger_are_those_of_the_library():
    from gpt2lib.config import GPTConfig

    for size, name in {"small": "", "medium": "-medium", "large": "-large", "xl": "-xl"}.items():
        config = GPTConfig.named(f"gpt2{name}")
        for field in ("n_layer", "n_embd", "n_head"):
            assert getattr(config, field) == FACTS[f"gpt2.{size}.{field}"]["value"]
        assert config.n_params() == FACTS[f"gpt2.{size}.n_params"]["value"]
        old = GPTConfig.named(f"gpt2{name}", vocab_size=FACTS["gpt1.vocab_size"]["value"])
        label = FACTS[f"gpt2.{size}.label"]["value"]
        millions = FACTS[f"gpt2.with_gpt1_vocab.{label}"]["value"]
        assert round(old.n_params() / 1e6, 2) == millions and f"{millions:.0f}M" == label


# Exercises and questions -------------------------------------------------------------------


FOLD = "<details><summary>Hint</summary>\n\nLook.\n\n</details>"
ABOUT = {"name": "my_x", "difficulty": 2, "importance": 3, "minutes": 4}
CODE = "def my_x():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"
EXERCISE = [
    {"source": ["## Find $x$\n", "\nDo.\n\n", FOLD], "metadata": {"exercise": ABOUT}},
    {"source": [CODE], "metadata": {"nbgrader": {"solution": True}}},
    {"source": ["Why."], "metadata": {"tags": ["discussion"]}},
]


def test_an_exercise_is_read_from_its_notebook(tmp_path):
    folder = tmp_path / "07_language_models"
    folder.mkdir()
    path = folder / "problems.ipynb"
    path.write_text(json.dumps({"cells": EXERCISE}))
    (problem,) = book_problems.read(path)
    assert (problem.number, problem.title, problem.statement) == ("7.1", "Find $x$", "Do.")
    assert problem.folds == [("Hint", "Look.")] and problem.discussion == "Why."
    assert problem.solution == "def my_x():\n    return 1"


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_a_quiz_keeps_to_its_format_and_links_into_its_chapter(path):
    questions = book_quiz.read(path)
    chapter = text(f"chapters/{path.stem}.ipynb")
    places = [[o["right"] for o in question["options"]].index(True) for question in questions]
    assert len(set(places)) > 1, "the right option stands at the same place each time"
    for question in questions:
        assert f"({question['link']})=" in chapter, question["link"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda quiz: quiz.pop(), "list of 5"),
        (lambda quiz: quiz[1].pop("link"), "question, link and options"),
        (lambda quiz: quiz[1]["options"].pop(), "3 to 5 options"),
        (lambda quiz: quiz[1]["options"][0].update(right=False), "exactly one"),
        (lambda quiz: quiz[1]["options"][1].update(right=True), "exactly one"),
    ],
)
def test_a_quiz_that_breaks_the_format_is_refused(tmp_path, change, said):
    options = [{"text": "a", "right": i == 0, "why": "b"} for i in range(3)]
    quiz = [{"question": "?", "link": "x", "options": [dict(o) for o in options]} for _ in range(5)]
    path = tmp_path / "quiz.yml"
    path.write_text(yaml.safe_dump({"quiz": quiz}))
    assert len(book_quiz.read(path)) == 5
    change(quiz)
    path.write_text(yaml.safe_dump({"quiz": quiz}))
    with pytest.raises(ValueError, match=said):
        book_quiz.read(path)


# Building ------------------------------------------------------------------------------------

PAGE = """# Language models

```{admonition} What is it?
:class: chapter-card
**Time** An hour to read; a second to run.
```

It has {fact}`124 million <gpt2.small.n_params>` parameters; see {ref}`problem-my_x`.

(here)=
## A section

```{figure} drawing.svg
:name: fig-x
Claim.
```

{numref}`fig-x`

```{problem} 07_test/my_x
```

```{quiz} 07_test
```

```{interview} 07_test
```

```{drawing} drawing.svg
```
"""


BANKED = {"id": "a-question", "question": "Why?", "link": "here", "cell": "", "difficulty": 2}
BANKED |= {"short": "Because.", "long": "One.\n\nTwo.", "wrong": "So it is.", "why": "It is not."}
CELL_EXTENSION = """
from docutils import nodes

def add(app, doctree):
    if app.env.docname == "chapters/07_test":
        doctree.append(nodes.container("", nb_element="cell_code", cell_index=1))

def setup(app):
    app.connect("doctree-read", add, priority=1)
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a page of a small book, changed from PAGE; what Sphinx warns of, and the HTML."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    fact = 'gpt2.small.n_params: {value: 124439808, source: "radford2019"}\n'
    fact += 'reading.pace: {value: 238, source: "radford2019"}\n'
    links = "".join(f'<a href="doc:chapters/{n}"><g/></a>' for n in ("07_test", "08_later"))
    option = {"text": "a", "why": "b"}
    options = [{**option, "right": right} for right in (True, False, False)]
    files = {
        "chapters/facts.yml": fact,
        "exercises/07_test/problems.ipynb": json.dumps({"cells": EXERCISE}),
        "questions/07_test.yml": yaml.safe_dump(
            {
                "quiz": [{"question": "?", "link": "here", "options": options}] * 5,
                "bank": [{**BANKED, "cell": "the-cell"}],
            },
            sort_keys=False,
        ),
        "chapters/07_test.ipynb": json.dumps(
            {"cells": [{"id": "x"}, {"id": "the-cell"}]}  # where cells get their names from
        ),
        "exercises/kills.yml": yaml.safe_dump({"07_test": {"my_x": {"a mistake": "Look there."}}}),
        "chapters/drawing.svg": f'<svg xmlns="http://www.w3.org/2000/svg">{links}</svg>',
        "facts.md": "# Facts\n\n```{facts-grid} gpt2.small\n```\n",
        "problems.md": "# Problems\n\n```{problems-table}\n```\n\n```{kill-table}\n```\n\n"
        "```{syllabus}\n:least: 1\n1: 07_test\n```\n\n```{self-test}\n```\n\n"
        "```{questions} 07_test\n```\n",
        "CITATION.cff": text("CITATION.cff"),
        "index.md": "# Book\n\n(reading-time)=\nIt is counted.\n\n"
        "```{toctree}\nchapters/07_test\nfacts\nproblems\n```\n",
        "references.bib": "@misc{radford2019, title={A}, author={B. Radford}, year={2019}}",
        "bib.md": "---\norphan: true\n---\n# Bibliography\n\n```{bibliography}\n```\n",
    }
    settings = {
        "extensions": [
            "myst_parser", "sphinxcontrib.bibtex", "book_pages", "book_facts", "book_problems",
            "book_quiz", "book_questions", "book_formulas", "book_editions", "book_reading",
            "book_cite", "cell",
        ],
        "epub_basename": "whole",
        "myst_enable_extensions": ["dollarmath"],
        "bibtex_bibfiles": ["references.bib"],
        "numfig": True,
        "nitpicky": True,
    }  # fmt: skip

    # A page in Markdown has no cells: one is put where MyST-NB would put it.
    (tmp_path / "cell.py").write_text(CELL_EXTENSION)
    monkeypatch.syspath_prepend(tmp_path)

    def run(page=PAGE, **changed):
        for name, content in {**files, "chapters/07_test.md": page, **changed}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        said, out = io.StringIO(), tmp_path / "out"
        with warnings.catch_warnings(), docutils_namespace():
            warnings.simplefilter("ignore")  # Sphinx's own
            app = Sphinx(
                tmp_path, None, out, tmp_path / "doctrees", "html", settings, None, said,
            )  # fmt: skip
            app.build()
        names = ("chapters/07_test", "facts", "problems")
        return said.getvalue(), *(f"{(out / n).with_suffix('.html').read_text()}" for n in names)

    return run


def test_a_sound_book_is_built_without_a_warning_and_its_parts_find_each_other(build):
    said, chapter, facts, problems = build()
    assert said == ""
    assert "7 · Language models" in chapter and "Fig. 7.1" in chapter
    assert 'href="../facts.html#fact-gpt2-small-n-params"' in chapter
    assert 'id="fact-gpt2-small-n-params">124,439,808<' in facts
    assert "Exercise 7.1" in chapter and 'href="chapters/07_test.html#problem-my-x"' in problems
    assert chapter.count("option right") == 5 and chapter.count("<summary>Hint</summary>") == 1
    assert 'href="#here"' in chapter
    time = re.search(r'href="../index.html#reading-time">(.+)</a>(.+)</p>', chapter)
    assert re.sub("<.+?>", "", time[1]) == "About 5 minutes"
    assert time[2] == " to read; a second to run."
    assert "<summary>Cite this chapter</summary>" in chapter and "Cite this" not in facts
    assert 'href="../problems.html#question-a-question"' in chapter
    assert 'id="cell-07-test-the-cell"' in chapter
    assert 'href="chapters/07_test.html#cell-07-test-the-cell"' in problems
    assert "a mistake" in problems and "Look there." in problems
    assert problems.count("option right") == 5 and 'class="quiz draw' in problems
    assert re.search(r"<summary>.*7\.1 .*Why\?", problems) and "<p>Two.</p>" in problems
    assert 'href="#"' in chapter and "08_later" not in chapter, "only what exists is linked"


def test_a_formula_is_set_when_the_book_is_built_and_one_that_cannot_be_is_named(build):
    said, chapter, *_ = build(PAGE + "\nIt is $q_i$, at $\\biggest$.\n\n$$\n1 < 2 \\\\ 3\n$$\n")
    assert said.count("WARNING") == 1, said
    assert "chapters/07_test.md" in said and r"Undefined control sequence \biggest" in said
    assert "<mi>q</mi><mi>i</mi>" in chapter and "<mo>&lt;</mo>" in chapter


def test_the_style_sheet_has_the_characters_that_are_used_and_no_others():
    used = book_formulas.characters(book_formulas.typeset("x = 1"))
    assert used == {"mjx-c1D465.TEX-I", "mjx-c3D", "mjx-c31"}
    rules = book_formulas.style_sheet(used)
    assert book_formulas.characters(rules) == used and "@font-face" in rules


def test_the_figures_of_an_appendix_count_from_1(build):
    appendix = "# Appendix\n\n```{figure} drawing.svg\n:name: fig-y\nClaim.\n```\n"
    index = "# Book\n\n(reading-time)=\nIt is.\n\n```{toctree}\nchapters/07_test\n"
    index += "chapters/more\nfacts\nproblems\n```\n"
    page = PAGE + "\n{numref}`fig-y`\n"
    _, chapter, *_ = build(page, **{"chapters/more.md": appendix, "index.md": index})
    assert "Fig. 7.1" in chapter and ">Fig. 1<" in chapter


def test_an_edition_is_linked_when_it_is_there_and_only_then(build, tmp_path):
    page = PAGE + "\n```{editions}\n```\n"
    said, chapter, *_ = build(page)
    assert said == "" and "The whole book" not in chapter
    said, chapter, *_ = build(page, **{"_build/epub/whole.epub": "made later"})
    assert said == "" and "The whole book in one file: <a" in chapter
    (link,) = re.findall(r'href="\.\./(_downloads/\w+/whole\.epub)"', chapter)
    assert (tmp_path / "out" / link).read_text() == "made later"
    (tmp_path / "_build/epub/whole.epub").unlink()
    said, chapter, *_ = build(page)
    assert said == "" and "The whole book" not in chapter


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("124 million", "125 million", "which is right?"),
        ("<gpt2.small.n_params>", "<gpt2.small.params>", "has no key"),
        ("07_test/my_x", "07_test/my_y", "0 exercises named"),
        ("07_test/my_x", "08_test/my_x", "there is no exercises/08_test"),
        ("{quiz} 07_test", "{quiz} 08_test", "there is no questions/08_test.yml"),
        ("(here)=", "(there)=", "undefined label"),
        ("{interview} 07_test", "{interview} 08_test", "there is no questions/08_test.yml"),
        ("```{problem} 07_test/my_x\n```", "", "undefined label"),
        ("An hour to read; a", "A", "the time to read"),
    ],
)
def test_a_page_that_says_what_is_not_so_stops_the_build(build, old, new, said):
    assert old in PAGE
    assert said in build(PAGE.replace(old, new))[0]


# Pages ---------------------------------------------------------------------------------------


def test_every_notebook_is_in_the_contents_the_unnumbered_ones_as_appendices():
    parts = yaml.safe_load(text("_toc.yml"))["parts"]
    listed = {c["file"]: part["caption"] for part in parts for c in part["chapters"]}
    for path in NOTEBOOKS:
        appended = listed[f"chapters/{path.stem}"] == "Appendices"
        assert appended is (path not in CHAPTERS), path.stem


def test_every_chapter_has_exercises_and_a_quiz():
    for path in CHAPTERS:
        assert (ROOT / f"exercises/{path.stem}/problems.ipynb").is_file()
        assert (ROOT / f"questions/{path.stem}.yml").is_file()


def test_every_exercise_stands_in_its_chapter_and_every_chapter_has_its_quiz():
    for path in CHAPTERS:
        chapter = path.read_text(encoding="utf-8")
        assert f"{{quiz}} {path.stem}" in chapter
        for problem in book_problems.read(ROOT / f"exercises/{path.stem}/problems.ipynb"):
            assert f"{{problem}} {path.stem}/{problem.name}" in chapter


def test_the_map_of_the_model_leads_to_every_chapter():
    links = {
        a.get("href").removeprefix("doc:chapters/") for a in ET.parse(MAP).iter() if a.get("href")
    }
    assert {path.stem for path in CHAPTERS} <= links


def test_every_module_is_on_the_page_of_the_library():
    described = set(re.findall(r"automodule:: gpt2lib\.(\w+)", text("api.md")))
    modules = {path.stem for path in ROOT.glob("gpt2lib/*.py")} - {"__init__", "__main__"}
    assert described == modules


def test_the_glossary_is_in_order_and_no_term_stands_twice():
    terms = re.findall(r"^(\w.*)$", text("glossary.md").partition("{glossary}\n")[2], re.MULTILINE)
    folded = [term.lower() for term in terms]
    assert len(terms) > 60 and folded == sorted(set(folded))


# Reading and citing --------------------------------------------------------------------------


def words(n):
    return nodes.paragraph("", "word " * n)


def cell(*classes):
    code = nodes.literal_block("", "a\n\nb")
    output = nodes.literal_block("", "said " * 119, classes=["output"])
    parts = [nodes.container("", part) for part in (code, output)]
    return nodes.container("", *parts, classes=["cell", *classes])


@pytest.mark.parametrize(
    ("node", "seconds"),
    [
        (words(238), 60),
        (nodes.section("", words(119), nodes.section("", words(119))), 60),
        (nodes.math_block(), book_reading.LOOK),
        (nodes.figure("", nodes.image(), nodes.caption("", "word " * 119)), book_reading.LOOK + 30),
        (cell(), 2 * book_reading.CODE + 30),
        (cell("tag_hide-input"), 30),
        (make_fold([nodes.Text("Hint")], [words(99)]), 0),
        (nodes.container("", words(99), classes=["quiz"]), 0),
    ],
)
def test_what_is_in_sight_is_read_and_takes_its_time(node, seconds):
    assert book_reading.seconds(node, pace=238) == pytest.approx(seconds)


def test_the_first_page_says_how_reading_is_counted():
    said = f"{book_reading.CODE} seconds for a line of code, and half a minute for a formula"
    assert said in text("index.md") and book_reading.LOOK == 30


BOOK = yaml.safe_load(text("CITATION.cff"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_bibtex_reads_the_entry_of_a_chapter(path):
    address = f"https://example.org/chapters/{path.stem}.html"
    entry = book_cite.bibtex(BOOK, path.stem, "A title", address)
    ((key, parsed),) = pybtex.database.parse_string(entry, "bibtex").entries.items()
    assert path.stem.replace("_", "-") in key and " " not in key
    assert [str(author) for author in parsed.persons["author"]] == [
        f"{{{BOOK['authors'][0]['name']}}}"
    ]
    number = str(int(path.stem[:2])) if path in CHAPTERS else None
    assert parsed.fields.get("chapter") == number
    said = book_cite.reference(entry).astext()
    for part in (
        BOOK["title"],
        BOOK["version"],
        "A title",
        str(BOOK["date-released"].year),
        address,
    ):
        assert part in said


# The look ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(ROOT.glob("_static/*.*")), ids=lambda path: path.name)
def test_nothing_of_the_look_comes_from_another_host(path):
    addresses = set(re.findall(r"https?://[^\s\"')]+", path.read_text(encoding="utf-8")))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def by_night(rgb):
    """What book.css's invert(.88) hue-rotate(180deg) makes of a colour, channels 0 to 1."""
    inverted = np.asarray(rgb) * 0.12 + (1 - np.asarray(rgb)) * 0.88
    luma = np.tile([0.213, 0.715, 0.072], (3, 1))  # hue-rotate(180deg). Source: Filter Effects 1
    return ((2 * luma - np.eye(3)) @ inverted).clip(0, 1)


def contrast(one, other):
    """How well two colours tell apart, 1 to 21. Source: WCAG 2.1, relative luminance."""
    rgb = np.array([one, other])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def test_lines_and_letters_of_figures_can_be_seen_by_day_and_by_night():
    rc = matplotlib.rc_params_from_file(ROOT / "chapters/matplotlibrc", use_default_template=False)
    assert {rc["figure.facecolor"], rc["axes.facecolor"], rc["savefig.facecolor"]} == {"none"}
    lines = rc["axes.prop_cycle"].by_key()["color"]
    for least, colours in ((3, lines), (4.5, [rc["text.color"], rc["axes.labelcolor"]])):
        for colour in colours:
            rgb = matplotlib.colors.to_rgb(colour)
            assert contrast(rgb, np.array(LIGHT) / 255) >= least, colour
            assert contrast(by_night(rgb), np.array(DARK) / 255) >= least, colour


def test_the_night_that_is_tested_is_the_one_that_is_built():
    css = text("_static/book.css")
    assert "filter: invert(.88) hue-rotate(180deg)" in css
    for ground in (LIGHT, DARK):
        assert "--pst-color-background: #{:02x}{:02x}{:02x};".format(*ground) in css
