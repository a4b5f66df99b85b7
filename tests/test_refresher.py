"""The refresher shows what Python says: each of its blocks is typed and compared."""

import doctest
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[1] / "refresher.md"


def failures(page):
    """How many of a page's lines were typed, and how many of them said something else."""
    blocks = re.findall(r"^```pycon\n(.+?)^```", page, re.M | re.S)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "refresher", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    said = []
    runner.run(test, out=said.append)
    return len(test.examples), "".join(said)


def test_the_refresher_shows_what_python_says():
    typed, said = failures(PAGE.read_text(encoding="utf-8"))
    assert said == ""
    assert typed > 30


def test_a_slip_on_the_page_is_noticed():
    page = PAGE.read_text(encoding="utf-8")
    assert "tensor([12.,  4.])" in page
    assert "Expected" in failures(page.replace("tensor([12.,  4.])", "tensor([12.,  5.])"))[1]
