"""The editions beside the web pages, PDF and EPUB: what is not in them, and the links to them.

* A page that lives by its scripts is nothing on paper: LIVE says what stands there in its place.
* {editions} is a line of links to the editions that lie under _build/ when the pages are built;
  without any it is nothing. `make pdf` and `make epub` make them, in book_pdf and book_epub.
"""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.viewcode import viewcode_anchor
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

EDITIONS = ("pdf", "epub")  # the names of the builders, of their folders, and the suffixes
LIVE = {
    "playground": "Among the web pages of the book, this one writes stories with you.",
    "selftest": "Among the web pages of the book, this one draws ten questions from the quizzes "
    "at the ends of the chapters, and keeps the score.",
}


class LeaveOut(SphinxPostTransform):
    """Take out what only web pages have: what needs scripts, and the pages of source code."""

    default_priority = 90  # when references are resolved
    formats = ("html",)

    def run(self, **kwargs):
        if self.app.builder.name not in EDITIONS:
            return
        pages = {page["docname"]: page for page in self.document.findall(addnodes.start_of_file)}
        pages[self.env.docname] = self.document  # where each page is a file
        for name in pages.keys() & LIVE.keys():
            section = next(pages[name].findall(nodes.section))
            section[1:] = [nodes.paragraph("", LIVE[name])]
        for source in list(self.document.findall(viewcode_anchor)):
            source.parent.remove(source)


class Editions(SphinxDirective):
    """{editions}: where the book can be had as one file."""

    def run(self):
        links = []
        for kind in EDITIONS:
            path = f"_build/{kind}/{self.config.epub_basename}.{kind}"
            self.env.note_dependency(path)  # when it comes or goes, the page is read again
            if (Path(self.env.srcdir) / path).exists():
                name = nodes.Text(kind.upper())
                link = addnodes.download_reference("", "", name, reftarget=f"/{path}")
                links += [nodes.Text(" and " if links else "The whole book in one file: "), link]
        if not links:
            return []
        line = nodes.paragraph("", "", *links, nodes.Text("."))
        return [addnodes.only("", line, expr="builder_html")]


def setup(app):
    app.add_directive("editions", Editions)
    app.add_post_transform(LeaveOut)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
