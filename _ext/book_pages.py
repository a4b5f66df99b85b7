"""What makes the pages self-contained, numbered, and linked by a drawing.

* No page asks another host for anything: thebe, which Jupyter Book adds unasked, is taken out;
  so are the tabs and toggles of extensions where a page has none.
* Read from a folder, where a page may not fetch another, the search shows titles alone.
* The titles of chapters, their figures and equations carry the chapter's number, which is
  that of the file: Fig. 7.2 is the second of chapters/07_…. Other pages count from 1.
* Docstrings are read as plain text, in which an indented block is an example.
* {drawing} file.svg puts an SVG into the page. A link in it to "doc:chapters/01_name"
  leads to that page, or is no link where the book has no such page yet.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

# Of a script or style, a word; and what it is for, in a page. thebe asks another host: for nothing.
OPTIONAL = {
    "thebe": "(?!)",
    "design": r'class="[^"]*\bsd-',
    "toggle": r'class="[^"]*\b(toggle|dropdown)\b',
}
SEARCH_IN_A_FOLDER = (
    'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
)
LINK = re.compile(r'<a href="doc:([^"#]+)(#[^"]*)?"([^>]*)>(.*?)</a>', re.DOTALL)
CHAPTER = re.compile(r"chapters/(\d\d)_")


def drop_unused(app, pagename, templatename, context, doctree):
    """Take out of the page the scripts and styles of what it does not have."""
    body = context.get("body", "")
    unused = [name for name, there in OPTIONAL.items() if not re.search(there, body)]
    for files in ("script_files", "css_files"):
        context[files] = [
            file for file in context[files] if not any(name in _words(file) for name in unused)
        ]


def _words(file) -> str:
    return f"{file.filename} {file.attributes.get('body', '')}".lower()


def read_plainly(app, what, name, obj, options, lines):
    """Keep reStructuredText from reading more into a docstring than stands there."""
    plain, inside = [], False
    for line in lines:
        indented = line.startswith(("  ", "\t"))
        if indented and not inside:
            plain += ["", ".. code-block:: text", ""]
        elif inside and line.strip() and not indented:
            plain += [""]
        inside = indented or (inside and not line.strip())
        plain.append("   " + line if inside else re.sub(r"([*`|_\\])", r"\\\1", line))
    lines[:] = [*plain, ""]


def skip_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a named tuple: its signature shows them."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


class NumberTitle(SphinxTransform):
    """Put the chapter's number before its title: 7 · Language models."""

    default_priority = 20  # before anything reads the title

    def apply(self):
        chapter = CHAPTER.match(self.env.docname)
        title = next(self.document.findall(nodes.title), None)
        if chapter and title is not None:
            title.insert(0, nodes.Text(f"{int(chapter[1])} · "))


def number_by_chapter(app, env):
    """Replace Sphinx's running numbers of figures and equations by (chapter, position)."""
    for docname, kinds in env.toc_fignumbers.items():
        chapter = CHAPTER.match(docname)
        first = (int(chapter[1]),) if chapter else ()
        for kind, numbers in kinds.items():  # each in the order of the page
            kinds[kind] = {name: (*first, i) for i, name in enumerate(numbers, 1)}
    return []


class drawing(nodes.General, nodes.Element):
    """An SVG of ours, whose links are resolved when it is written."""


class Drawing(SphinxDirective):
    """{drawing} path: an SVG of ours, in the page, with its links resolved."""

    required_arguments = 1

    def run(self):
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        return [drawing("", svg=Path(path).read_text(encoding="utf-8"), docname=self.env.docname)]


def visit_drawing(self, node):
    def link(found):
        docname, anchor, rest, content = found.groups(default="")
        if docname not in self.builder.env.found_docs:
            return content
        uri = self.builder.get_relative_uri(node["docname"], docname)
        return f'<a href="{uri}{anchor}"{rest}>{content}</a>'

    self.body.append(f'<div class="drawing">{LINK.sub(link, node["svg"])}</div>')
    raise nodes.SkipNode


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.add_node(drawing, html=(visit_drawing, None))
    app.add_directive("drawing", Drawing)
    app.add_transform(NumberTitle)
    app.connect("autodoc-process-docstring", read_plainly)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("env-get-updated", number_by_chapter, priority=900)
    app.add_js_file(None, body=SEARCH_IN_A_FOLDER)
    app.connect("html-page-context", drop_unused, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
