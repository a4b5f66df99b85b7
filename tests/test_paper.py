"""The book as a PDF and as an EPUB, made here beside the pages of $BOOK_HTML, which are built."""

import html
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag

import book_chromium
import book_epub
import pypdfium2
import pytest
import yaml
from lxml import etree
from test_pages import CHROMIUM, HTML, browser  # noqa: F401 (browser: a fixture)

from make import BUILD

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(HTML is None, reason="the book is not built: make book"),
]
NAME = "gpt-2-built-and-measured"
PAPER = {"width": 627, "height": 900}  # of A4, what lies between the margins of onepage.html
CONTENTS = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
OPF = "{http://www.idpf.org/2007/opf}"
CUT = """() => [
  ...document.querySelectorAll("pre, code, table, img, svg, dt, .math, mjx-container")
  ]
  .filter(e => e.getClientRects().length)
  .filter(e => e.getBoundingClientRect().right > document.body.clientWidth + 1 ||
               (!e.matches("span, mjx-container") && e.scrollWidth > e.clientWidth + 1))
  .map(e => e.outerHTML.slice(0, 200))"""


def made(kind):
    """The folder of an edition, built beside the pages from what was read for them."""
    options = ("--builder", "custom", "--custom-builder", kind)
    where = ("--path-output", str(HTML.parents[1]))
    done = subprocess.run(
        [sys.executable, *BUILD, *options, *where], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return HTML.parent / kind


@pytest.fixture(scope="module")
def pdf():
    return made("pdf")


@pytest.fixture(scope="module")
def epub():
    with zipfile.ZipFile(made("epub") / f"{NAME}.epub") as packed:
        yield {name: packed.read(name) for name in packed.namelist()}


@pytest.fixture(scope="module")
def page(pdf, browser):  # noqa: F811
    """The page that was printed, as it is on paper."""
    page = browser.new_page(viewport=PAPER)
    page.emulate_media(media="print")
    page.goto((pdf / "index.html").as_uri())
    page.evaluate("document.fonts.ready.then(() => null)")
    yield page
    page.close()


def title(name):
    """The title of a page of the book, as its HTML has it."""
    page = (HTML / f"{name}.html").read_text(encoding="utf-8")
    return html.unescape(re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", page)[1]))


def letters(text):
    """Its letters and digits: spaces and hyphens are drawn, and read back in many ways."""
    return re.sub(r"[\W_]", "", text)


# The PDF --------------------------------------------------------------------------------


def test_the_pdf_has_each_chapter_where_its_contents_and_bookmarks_say(pdf):
    document = pypdfium2.PdfDocument(pdf / f"{NAME}.pdf")
    marks = [(m.level, m.get_title(), m.get_dest().get_index()) for m in document.get_toc()]
    parts = [at for at, (level, *_) in enumerate(marks) if level == 0][2:]  # after the first page
    assert [marks[at][1] for at in parts] == [part["caption"] for part in CONTENTS]
    chapters = [(name, page) for level, name, page in marks[parts[0] :] if level == 1]
    expected = [title(chapter["file"]) for part in CONTENTS for chapter in part["chapters"]]
    assert [name for name, _ in chapters] == expected
    texts = [letters(page.get_textpage().get_text_bounded()) for page in document]
    for name, page in chapters:
        number = str(page + 1)
        assert letters(name) + number in texts[1], "the contents"
        assert texts[page].startswith(number + letters(name)), "the foot of the page, the text"


def test_nothing_is_wider_than_the_paper(page):
    assert page.evaluate(CUT) == []
    style = page.add_style_tag(content=".bd-article pre { white-space: pre !important; }")
    assert page.evaluate(CUT) != [], "this test would not see a line that is cut"
    style.evaluate("style => style.remove()")


def test_on_paper_everything_is_open_and_nothing_waits_for_a_click(page):
    hidden = "all => all.filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length"
    assert page.locator("details.solution").count() >= 60
    assert page.eval_on_selector_all("details > :not(summary)", hidden) == 0
    controls = "button, input, textarea, select, video, iframe"
    assert page.eval_on_selector_all(controls, f"all => all.length - ({hidden})(all)") == 0


def test_the_links_of_the_one_page_lead_to_one_place_each(page):
    dead, twice, outside = page.evaluate(
        """() => {
          const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
          const links = [...document.querySelectorAll("a[href]")].map(a => a.getAttribute("href"));
          const inside = links.filter(l => l.startsWith("#") && l.length > 1);
          return [
            inside.filter(l => !document.getElementById(decodeURIComponent(l.slice(1)))),
            ids.filter((id, i) => ids.indexOf(id) !== i),
            links.filter(l => !/^(#|https?:)/.test(l)),
          ];
        }"""
    )
    assert (dead, twice, outside) == ([], [], [])


def test_figures_and_formulas_of_the_one_page_are_whole_and_numbered(page):
    assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert page.locator("mjx-merror").count() == 0
    assert page.locator("mjx-container").count() >= page.locator(".math").count() > 1000
    numbers = page.locator("figcaption .caption-number").all_inner_texts()
    assert {"Fig. 1.1", "Fig. 8.1"} <= {number.strip() for number in numbers}
    assert page.locator(".eqno").first.inner_text() == "(1.1)"


def test_a_page_is_printed_open_and_in_dark_ink_also_by_night(browser):  # noqa: F811
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((HTML / "chapters/01_self_attention.html").resolve().as_uri())
    brightest = """all => Math.max(...all.map(e =>
      Math.max(...getComputedStyle(e).color.match(/[\\d.]+/g).slice(0, 3))))"""
    text = ".bd-article p, .bd-article pre, .bd-article pre span"
    assert page.eval_on_selector_all(text, brightest) > 200, "by night the ink is light"
    page.emulate_media(media="print")
    assert page.eval_on_selector_all(text, brightest) < 180
    assert page.locator("details.solution pre").first.is_visible()
    for thing in (".bd-sidebar-primary", ".bd-header-article", ".copybtn", "#jb-print-docs-body"):
        assert not page.locator(thing).first.is_visible(), thing
    context.close()


# The EPUB -------------------------------------------------------------------------------


def pages_of(epub):
    return {name: etree.fromstring(text) for name, text in epub.items() if name.endswith(".xhtml")}


def test_the_epub_begins_as_one_and_lists_all_that_is_in_it(epub):
    assert next(iter(epub)) == "mimetype" and epub["mimetype"] == b"application/epub+zip"
    content = etree.fromstring(epub["content.opf"])
    listed = {unquote(item.get("href")): item for item in content.iter(f"{OPF}item")}
    assert set(epub) - set(listed) == {"mimetype", "META-INF/container.xml", "content.opf"}
    assert set(listed) <= set(epub)
    assert listed["_static/cover.png"].get("properties") == "cover-image"
    by_id = {item.get("id"): name for name, item in listed.items()}
    order = [by_id[item.get("idref")] for item in content.iter(f"{OPF}itemref")]
    book = ["index", *(c["file"] for part in CONTENTS for c in part["chapters"])]
    assert order[: len(book)] == [f"{name}.xhtml" for name in book]
    assert not any(name.endswith((".js", ".html")) for name in epub)


def test_each_page_of_the_epub_is_xml_without_scripts_and_its_links_lead_somewhere(epub):
    pages = pages_of(epub)
    ids = {name: set(page.xpath("//@id")) for name, page in pages.items()}
    for name, page in pages.items():
        for kind in ("script", "form", "button", "input", "textarea"):
            assert next(page.iter(f"{{*}}{kind}"), None) is None, (name, kind)
        for link in page.xpath("//@href | //@src"):
            if re.match(r"https?:|data:|mailto:", link):
                continue
            path, anchor = urldefrag(unquote(link))
            folder = PurePosixPath(name).parent
            target = os.path.normpath(folder / path) if path else name
            assert target in epub, (name, link)
            assert not anchor or anchor in ids[target], (name, link)


def test_each_formula_of_the_epub_is_mathml(epub):
    count = 0
    for name, page in pages_of(epub).items():
        for place in page.iter("{*}span", "{*}div"):
            if "math" in place.get("class", "").split():
                (formula,) = place.iter("{*}math")
                assert formula.get("alttext") and len(formula), name
                count += 1
        assert r"\(" not in "".join(page.xpath("//*[contains(@class, 'math')]//text()"))
    assert count > 1000


def test_a_formula_that_mathjax_cannot_read_stops_the_build():
    place = etree.fromstring(r"<span>\(\frac{\)</span>")
    assert book_epub.written(place) == r"\frac{"
    with pytest.raises(book_epub.SphinxError, match="Missing close brace"):
        book_epub.set_formula(place)


def test_without_a_chromium_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(book_chromium, "find", lambda: None)
    with pytest.raises(SystemExit, match="CHROMIUM="):
        book_chromium.required()
