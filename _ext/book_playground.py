"""The live model: {playground}, and the scripts beside the built pages.

_static/playground/ gets gpt2.js and page.js from playground/, and storyteller.js: the weights of
runs/storyteller, its shape and vocabulary, and the worker's text, as one script, so that it loads
from file:// too, where a page may not fetch. It is loaded when it is first asked for.
"""

import base64
import json
import shutil
from pathlib import Path

from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sphinx.util.docutils import SphinxDirective

FOLDER = "_static/playground"
DIALS = (
    {
        "label": "temperature",
        "name": "temperature",
        "low": 0,
        "high": 2,
        "step": 0.05,
        "value": 0.8,
    },
    {"label": "top-k", "name": "topk", "low": 0, "high": 50, "step": 1, "value": 0},
    {"label": "top-p", "name": "topp", "low": 0.05, "high": 1, "step": 0.05, "value": 1},
)


class Playground(SphinxDirective):
    """{playground}: a place to write with the model; its content is the beginning."""

    has_content = True

    def run(self):
        up = "../" * self.env.docname.count("/")
        loader = FileSystemLoader(Path(__file__).parent)
        page = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
        form = page.get_template("playground.html").render(
            scripts=f"{up}{FOLDER}", text="\n".join(self.content), dials=DIALS
        )
        return [nodes.raw("", form, format="html")]


def bundle(root: Path) -> str:
    """The script that brings the model: shape, vocabulary, weights, and the worker's text."""
    run = root / "runs" / "storyteller"
    tokenizer = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
    scripts = [root / "playground" / name for name in ("gpt2.js", "worker.js")]
    parts = {
        "config": json.loads((run / "config.json").read_text(encoding="utf-8")),
        "tokenizer": {name: tokenizer[name] for name in ("model", "added_tokens")},
        "weights": base64.b64encode((run / "model.safetensors").read_bytes()).decode(),
        "source": "\n".join(path.read_text(encoding="utf-8") for path in scripts),
    }
    return f"globalThis.storyteller = {json.dumps(parts)};\n"


def write(app, exception):
    root, target = Path(app.srcdir), Path(app.outdir) / FOLDER
    if exception or app.builder.format != "html" or not (root / "playground").is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    (target / "storyteller.js").write_text(bundle(root), encoding="utf-8")
    for name in ("gpt2.js", "page.js"):
        shutil.copy(root / "playground" / name, target / name)


def setup(app):
    app.add_directive("playground", Playground)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
