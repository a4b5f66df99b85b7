"""Every link of the built pages leads somewhere: to a file that is there, and a place in it.

Pages of the module sources, the index, the search and the slides too. Links to other hosts are
only looked at, never followed. `pytest -s` shows how many there are.
"""

import re
from collections import Counter
from functools import cache
from urllib.parse import unquote, urlsplit

import pytest
from lxml import html
from test_pages import HTML

pytestmark = pytest.mark.skipif(HTML is None, reason="the book is not built: make book")

ADDRESS = {"href": "//*[not(self::base)]/@href", "src": "//@src", "action": "//form/@action"}
PAGES = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.parts) if HTML else []


@cache
def tree(page):
    return html.parse(str(page), html.HTMLParser(encoding="utf-8")).getroot()


@cache
def places(page):
    """The names to which a link into the page can lead."""
    return {"", "top", *tree(page).xpath("//@id"), *tree(page).xpath("//a/@name")}


def addresses(page):
    return [address for where in ADDRESS.values() for address in tree(page).xpath(where)]


def fault(page, address):
    """What is wrong with a link that stays in the site, or None."""
    path, place = unquote(urlsplit(address).path), unquote(urlsplit(address).fragment)
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(HTML.resolve()):
        return "leaves the site"
    if not target.is_file():
        return "no such file"
    if place and target.suffix == ".html" and place not in places(target):
        return "no such place"
    return None


def test_every_link_within_the_book_leads_somewhere():
    faults = [
        f"{page.relative_to(HTML)}: {address}: {said}"
        for page in PAGES
        for address in addresses(page)
        if not urlsplit(address).scheme and (said := fault(page.resolve(), address))
    ]
    assert faults == []


def test_a_link_that_leads_nowhere_is_noticed():
    page = (HTML / "index.html").resolve()
    assert fault(page, "glossary.html") is None and fault(page, "#main-content") is None
    assert fault(page, "glossary.html#no-such-term") == "no such place"
    assert fault(page, "chapters/99_none.html") == "no such file"
    assert fault(page, "../../make.py") == "leaves the site"


def test_links_to_other_hosts_are_encrypted():
    schemes = {urlsplit(address).scheme for page in PAGES for address in addresses(page)}
    assert schemes <= {"", "https", "data", "mailto"}


def test_each_notebook_is_there_to_download():
    for page in (page for page in PAGES if page.parent.name == "chapters"):
        links = {a for a in addresses(page) if a.endswith(".ipynb")}
        assert [link.rpartition("/")[2] for link in links] == [f"{page.stem}.ipynb"]


def test_the_search_knows_every_page():
    index = (HTML / "searchindex.js").read_text(encoding="utf-8")
    known = set(re.findall(r'"([^"]*)"', re.search(r'"?docnames"?:\s*\[(.*?)\]', index)[1]))
    assert {f"{name}.html" for name in known} >= {
        str(page.relative_to(HTML)) for page in PAGES if page.parent.name == "chapters"
    }


def test_every_formula_is_set():
    for page in PAGES:
        for formula in tree(page).xpath("//*[contains(@class, 'math notranslate')]"):
            assert formula.xpath("count(.//mjx-container)") == 1, formula.text_content()


def test_each_kind_is_counted():
    counts = Counter(pages=len(PAGES))
    for page in PAGES:
        schemes = [urlsplit(address).scheme for address in addresses(page)]
        counts["links within"] += schemes.count("")
        counts["links to other hosts"] += schemes.count("https")
        counts["formulas"] += len(tree(page).xpath("//mjx-container"))
        counts["images"] += len(tree(page).xpath("//main//img"))
    print("\n" + ", ".join(f"{count} {name}" for name, count in counts.items()))
    assert min(counts.values()) >= len(PAGES)
