"""Cite this chapter: folded, at the end of each page of chapters/.

Title, authors, version and year come from CITATION.cff; the chapter's title and number from the
page; an address only where the book is built with one (see book_launch).
"""

import re
from pathlib import Path
from urllib.parse import urljoin

import yaml
from book_nodes import make_fold
from docutils import nodes
from pybtex.database import parse_string
from pybtex.style.formatting.plain import Style
from pybtex_docutils import Backend


def bibtex(book: dict, page: str, title: str, address: str = "") -> str:
    """The BibTeX entry of a chapter, or of an appendix, which has no number.

    book is what CITATION.cff says, page the name of the notebook: 01_self_attention.
    """
    authors = " and ".join(f"{{{author['name']}}}" for author in book["authors"])
    fields = {
        "author": authors,
        "title": f"{{{title}}}",
        "booktitle": f"{{{book['title']}}}, version {book['version']}",
        "chapter": str(int(page[:2])) if page[:2].isdigit() else "",
        "year": str(book["date-released"].year),
        "url": address,
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@incollection{{{key(book, page)},\n" + ",\n".join(lines) + "\n}"


def key(book: dict, page: str) -> str:
    """What an entry is called: the book's short title, and the page's name."""
    short = book["title"].partition(":")[0]
    return re.sub(r"\W+", "-", f"{short} {page}".lower().replace("_", "-"))


def reference(entry: str) -> nodes.paragraph:
    """A BibTeX entry as the book's bibliography would write it."""
    (parsed,) = parse_string(entry, "bibtex").entries.values()
    (formatted,) = Style().format_entries([parsed])
    return Backend().paragraph(formatted)


def add(app, document, docname):
    """Put the fold at the end of a chapter."""
    if not docname.startswith("chapters/"):
        return
    book = yaml.safe_load((Path(app.srcdir) / "CITATION.cff").read_text(encoding="utf-8"))
    title = re.sub(r"^\d+ · ", "", app.env.titles[docname].astext())
    base = app.config.html_baseurl
    address = urljoin(base, app.builder.get_target_uri(docname)) if base else ""
    entry = bibtex(book, Path(docname).name, title, address)
    code = nodes.literal_block(entry, entry, language="bibtex")
    kind = "chapter" if "chapter =" in entry else "appendix"
    document[0] += make_fold([nodes.Text(f"Cite this {kind}")], [reference(entry), code], "cite")


def setup(app):
    app.setup_extension("book_nodes")
    app.connect("doctree-resolved", add)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
