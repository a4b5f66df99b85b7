"""The book as a PDF: the builder "pdf".

It writes all pages into one, index.html, after onepage.html, and has Chromium print it: a title
page, the contents with page numbers, each part and each chapter on a new page, bookmarks. What
is folded in the web pages is open, by the rules for print of book.css.

Pages share ids ("id1", "exercises"). On the one page each id begins with the name of its page,
and so does each link to it.
"""

import re
from pathlib import Path

import book_chromium
import pikepdf
from docutils import nodes
from sphinx import addnodes
from sphinx.builders.singlehtml import SingleFileHTMLBuilder
from sphinx.errors import SphinxError
from sphinx.util.display import progress_message

LINK = re.compile(r"#document-([^#]+)(?:#(.+))?")
READY = "document.fonts.ready.then(() => null)"
NUMBER = """pages => {
  for (const line of document.querySelectorAll(".pages li"))
    line.querySelector(".page").textContent = pages[line.querySelector("a").hash.slice(1)] ?? "";
}"""


class PDF(SingleFileHTMLBuilder):
    """All pages on one."""

    name = "pdf"
    epilog = "The PDF is in %(outdir)s."
    add_permalinks = False
    download_support = False

    def init(self):
        book_chromium.required()  # now, not when all is written
        super().init()

    def own(self, docname, anchor):
        """The id that `anchor` of a page has on the one page."""
        return anchor if docname == self.config.root_doc else f"{docname}.{anchor}"

    def assemble_doctree(self):
        """The first page, then the parts as sections of which the pages are sections."""
        root = self.env.get_doctree(self.config.root_doc)
        parts = [(t["caption"], t["includefiles"]) for t in root.findall(addnodes.toctree)]
        tree = super().assemble_doctree()
        pages = {page["docname"]: page for page in tree.findall(addnodes.start_of_file)}
        self.contents = []
        for caption, names in parts:
            part = nodes.section("", nodes.title("", caption), classes=["part"])
            part["ids"] = [nodes.make_id(caption)]
            for name in names:
                pages[name].parent.remove(pages[name])
                part += pages[name]
            tree += part
            titles = [(first_id(pages[name]), self.env.titles[name].astext()) for name in names]
            self.contents.append((caption, titles))
        return tree

    def fix_refuris(self, tree):
        """Give each page ids of its own, and lead the links to them."""
        pages = {page["docname"]: page for page in tree.findall(addnodes.start_of_file)}
        for docname, page in pages.items():
            for node in page.findall(nodes.Element):
                for name in ("ids", "backrefs"):
                    node[name] = [self.own(docname, anchor) for anchor in node.get(name, ())]
                if "refid" in node:
                    node["refid"] = self.own(docname, node["refid"])
        for node in tree.findall(nodes.reference):
            if link := LINK.fullmatch(node.get("refuri", "")):
                docname, anchor = link.groups()
                target = self.own(docname, anchor) if anchor else first_id(pages.get(docname, tree))
                node["refuri"] = f"#{target}"

    def assemble_toc_fignumbers(self):
        numbered = {}
        for docname, kinds in self.env.toc_fignumbers.items():
            for kind, numbers in kinds.items():
                own = {self.own(docname, anchor): n for anchor, n in numbers.items()}
                numbered.setdefault(kind, {}).update(own)
        return {self.config.root_doc: numbered}

    def get_doc_context(self, docname, body, metatags):
        return {"body": body, "parts": self.contents, "author": self.config.author}

    def handle_page(self, pagename, addctx, templatename="page.html", *args, **more):
        super().handle_page(pagename, addctx, "onepage.html", *args, **more)

    def finish(self):
        self.copy_image_files()
        self.copy_static_files()


def first_id(page: nodes.Element) -> str:
    """The id of a page's title."""
    return next(page.findall(nodes.section))["ids"][0]


def print_page(app, exception):
    """Print the page until its contents say on which pages the chapters then begin."""
    if exception or app.builder.name != "pdf":
        return
    page = Path(app.outdir) / "index.html"
    target = page.with_name(f"{app.config.epub_basename}.pdf")
    found = {}
    with book_chromium.launch() as browser:
        tab = browser.new_page()
        for step in ("printing, for the page numbers", "printing, with them", "printing again"):
            with progress_message(step):
                tab.goto(page.as_uri())  # anew: what was printed breaks its pages otherwise
                tab.evaluate(READY)
                tab.evaluate(NUMBER, found)
                tab.pdf(
                    path=target,
                    prefer_css_page_size=True,
                    print_background=True,
                    outline=True,
                    tagged=True,
                )
            numbers, found = found, destinations(target)
            if numbers == found:
                break
        else:
            raise SphinxError("the pages break in another way each time the book is printed")
        headings = tab.locator("h1, h2, h3, h4, h5, h6").all_inner_texts()
    finish(target, headings, app.config.project, app.config.author)


def destinations(path: Path) -> dict[str, int]:
    """On which page of a PDF each anchor stands that is linked to; the first page is 1."""
    with pikepdf.open(path) as pdf:
        numbers = {page.objgen: i for i, page in enumerate(pdf.pages, 1)}
        return {name[1:]: numbers[place[0].objgen] for name, place in pdf.Root.Dests.items()}


def finish(path: Path, headings: list[str], title: str, author: str):
    """Say who wrote it, mend the bookmarks, and pack it: a third of the size."""
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        with pdf.open_metadata() as metadata:
            metadata["dc:title"], metadata["dc:creator"] = title, [author]
        with pdf.open_outline() as outline:  # Chromium forgets the space where a line ends
            for item, heading in zip(bookmarks(outline.root), headings, strict=True):
                item.title = heading
        pdf.save(path, object_stream_mode=pikepdf.ObjectStreamMode.generate)


def bookmarks(items):
    """The bookmarks of a PDF in the order of the pages."""
    for item in items:
        yield item
        yield from bookmarks(item.children)


def add_template(app, config):
    config.templates_path.append(str(Path(__file__).parent))


def setup(app):
    app.add_builder(PDF)
    app.connect("config-inited", add_template)
    app.connect("build-finished", print_page, priority=900)  # the style of formulas lies there
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
