"""The book as an EPUB: Sphinx's builder "epub", changed.

* Formulas are MathML, which reading systems set without scripts: MathJax translates them, the
  same that sets them in the web pages.
* Of the static files only epub.css and our fonts go in; there is no index of modules.
* It says of each page what is in it, as EPUB wants it, and has a cover.
"""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import book_chromium
from book_formulas import mathml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lxml import etree
from sphinx.builders.epub3 import Epub3Builder
from sphinx.errors import SphinxError
from sphinx.util.display import progress_message

COVER = "_static/cover.png"
ID = re.compile(r' id="[^"]+"')
# What XML does not know, a cell may print.
CONTROLS = dict.fromkeys(set(range(32)) - set(map(ord, "\t\n\r")), "\N{REPLACEMENT CHARACTER}")


class EPUB(Epub3Builder):
    """An EPUB with formulas."""

    def init(self):
        book_chromium.required()  # now, not when all is written
        super().init()
        self.media_types = {**self.media_types, ".woff2": "font/woff2"}
        shutil.rmtree(self.outdir)  # all that lies there is packed
        Path(self.outdir).mkdir()

    def prepare_writing(self, docnames):
        super().prepare_writing(docnames)
        self.domain_indices = []

    def copy_assets(self):
        static = Path(self.outdir) / "_static"
        static.mkdir()
        self.create_pygments_style_file()
        shutil.copy(Path(__file__).with_name("epub.css"), static)
        for font in (Path(self.srcdir) / "_static/fonts").glob("*.woff2"):
            shutil.copy(font, static)

    def handle_finish(self):
        """What is done to pages when they are written, before they are packed."""
        with progress_message("setting the formulas"):
            self.set_formulas()
        with progress_message("drawing the cover"), book_chromium.launch() as browser:
            self.draw_cover(browser.new_page(viewport={"width": 1600, "height": 2400}))
        for path in Path(self.outdir).glob("_images/*.svg"):
            path.write_text(with_ids_once(path.read_text(encoding="utf-8")), encoding="utf-8")
        super().handle_finish()

    def set_formulas(self):
        """Replace the TeX in all pages by MathML."""
        for path in sorted(Path(self.outdir).rglob("*.xhtml")):
            text = path.read_text(encoding="utf-8").translate(CONTROLS)
            page = etree.ElementTree(etree.fromstring(text.encode()))
            self.clean(page)
            for place in list(page.iter("{*}span", "{*}div")):
                if "math" in classes(place):
                    set_formula(place)
            page.write(path, encoding="utf-8", doctype="<!DOCTYPE html>")

    def clean(self, page):
        """Take out of a page what extensions put into each: scripts, and styles for a browser."""
        styles = ("_static/epub.css", "_static/pygments.css")
        for element in list(page.iter("{*}script", "{*}link")):
            if not element.get("href", "").endswith(styles):
                element.getparent().remove(element)
        for element in page.iterfind(".//{*}summary/{*}p"):
            element.tag = element.tag.replace("}p", "}span")

    def draw_cover(self, tab):
        page = Path(self.outdir) / "cover.html"
        loader = FileSystemLoader(Path(__file__).parent)
        template = Environment(loader=loader, undefined=StrictUndefined, autoescape=True)
        logo = (Path(self.srcdir) / self.config.html_logo).read_text(encoding="utf-8")
        page.write_text(
            template.get_template(page.name).render(config=self.config, logo=logo),
            encoding="utf-8",
        )
        tab.goto(page.as_uri())
        tab.screenshot(path=Path(self.outdir) / COVER)
        page.unlink()

    def build_content(self):
        """Say in content.opf which file is the cover, and which pages have MathML or SVG."""
        super().build_content()
        path = Path(self.outdir) / "content.opf"
        content = etree.parse(path)
        for item in content.iter("{*}item"):
            name, properties = item.get("href"), []
            if name == COVER:
                properties = ["cover-image"]
            elif name.endswith(self.out_suffix) and not item.get("properties"):
                page = etree.parse(Path(self.outdir) / name)
                found = {"mathml": "{*}math", "svg": "{*}svg"}
                properties = [
                    key for key, tag in found.items() if next(page.iter(tag), None) is not None
                ]
            if properties:
                item.set("properties", " ".join(properties))
        content.write(path, encoding="utf-8", xml_declaration=True)


def with_ids_once(svg: str) -> str:
    """A drawing in which only the first element of an id keeps it: matplotlib repeats names."""
    seen = set()
    return ID.sub(lambda m: "" if m[0] in seen or seen.add(m[0]) else m[0], svg)


def classes(element):
    return (element.get("class") or "").split()


def written(place: etree._Element) -> str:
    """The TeX of a formula in a page, which may stand behind its number."""
    return ((place[-1].tail if len(place) else place.text) or "").strip()[2:-2]


def set_formula(place: etree._Element):
    """Put MathML in the place of the TeX, which stays as its text for those who need it."""
    tex = written(place)
    try:
        element = etree.fromstring(mathml(tex, display=place.tag.endswith("div")))
    except ValueError as error:
        raise SphinxError(str(error)) from None
    for part in element.iter():
        for name in [name for name in part.attrib if name.startswith("data-")]:
            del part.attrib[name]
    element.set("alttext", " ".join(tex.split()))
    if len(place):
        place[-1].tail = None
    else:
        place.text = None
    place.append(element)


def say_more(app, config):
    config.version = version("gpt2lib")
    config.epub_cover = (COVER, "")  # the image; no page of its own


def setup(app):
    app.connect("config-inited", say_more)
    app.add_builder(EPUB, override=True)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
