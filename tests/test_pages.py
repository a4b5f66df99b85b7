"""The built pages in a real browser, as a reader meets them.

The HTML is that of $BOOK_HTML, or the newest under _build/. Without it, or without Chromium
($CHROMIUM names one in an unusual place), these tests are skipped and say so.
"""

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import book_chromium
import pytest

ROOT = Path(__file__).resolve().parents[1]

CHROMIUM = book_chromium.find()
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1300, "height": 900}


def newest_html():
    """The folder of the built pages, or None."""
    if "BOOK_HTML" in os.environ:
        return ROOT / os.environ["BOOK_HTML"]
    built = ROOT.glob("_build/**/html/index.html")
    newest = max(built, key=lambda path: path.stat().st_mtime, default=None)
    return newest and newest.parent


HTML = newest_html()
PAGES = sorted(str(p.relative_to(HTML)) for p in HTML.rglob("*.html")) if HTML else []
PAGES = [page for page in PAGES if not page.startswith(("_static/", "_modules/", "slides/"))]
QUIZ_PAGES = [
    page for page in PAGES if '<div class="quiz docutils' in (HTML / page).read_text("utf-8")
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(HTML is None, reason="the book is not built: make book"),
]


@pytest.fixture(scope="module")
def site():
    """The address of the pages, served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with book_chromium.launch() as browser:
        yield browser


def see(browser, address, viewport=PHONE, **settings):
    """Open a page; the page, and what it complained of or asked of other hosts."""
    page = browser.new_context(viewport=viewport, **settings).new_page()
    own, complaints = re.split("/chapters|/slides", address.rpartition("/")[0])[0], []
    page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda r: r.status >= 400 and complaints.append(f"{r.status} {r.url}"))
    page.on(
        "request",
        lambda r: r.url.startswith((own, "data:")) or complaints.append(f"asks for {r.url}"),
    )
    page.goto(address, wait_until="load")
    if settings.get("java_script_enabled", True):
        page.evaluate("window.MathJax?.startup?.promise?.then(() => null)")
    return page, complaints


@pytest.fixture
def closing(browser):
    """Close what a test has opened."""
    yield
    for context in browser.contexts:
        context.close()


pytestmark.append(pytest.mark.usefixtures("closing"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_on_a_phone(site, browser, name):
    page, complaints = see(browser, site + name)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wrong = page.eval_on_selector_all(
        "mjx-merror, .math .error", "all => all.map(e => e.innerText)"
    )
    assert wrong == []
    silent = page.eval_on_selector_all(
        ".bd-article img, .bd-article svg[role=img]",
        "all => all.filter(i => !(i.alt || i.querySelector('title') || i.ariaLabel))"
        ".map(i => i.src || i.outerHTML.slice(0, 60))",
    )
    assert silent == [], "an image has no alternative text"
    broken = page.eval_on_selector_all(
        ".bd-article img", "all => all.filter(i => !i.naturalWidth).map(i => i.src)"
    )
    assert broken == []


def test_formulas_are_set_by_our_own_copy_even_from_a_folder(browser):
    pages = [page for page in PAGES if page.startswith(("chapters/", "notation"))]
    for name in pages:
        page, complaints = see(browser, (HTML / name).resolve().as_uri(), DESK)
        asked = [said for said in complaints if said.startswith("asks for http")]
        assert asked == []
        set_, written = page.evaluate(
            "[document.querySelectorAll('mjx-container').length, "
            "document.querySelectorAll('.math').length]"
        )
        assert set_ >= written


def test_figures_turn_light_by_night(site, browser):
    for name in (page for page in PAGES if page.startswith("chapters/")):
        for scheme, inverted in (("light", False), ("dark", True)):
            page, _ = see(browser, site + name, DESK, color_scheme=scheme)
            filters = page.eval_on_selector_all(
                ".cell_output img", "all => all.map(i => getComputedStyle(i).filter)"
            )
            assert all(("invert" in said) is inverted for said in filters), (name, scheme)
            grounds = page.eval_on_selector_all(
                ".cell_output img", "all => all.map(i => getComputedStyle(i).backgroundColor)"
            )
            assert set(grounds) <= {"rgba(0, 0, 0, 0)"}, "a figure stands in a box"


@pytest.mark.parametrize("name", QUIZ_PAGES)
def test_the_quiz_answers_to_a_click_and_counts_first_tries(site, browser, name):
    page, _ = see(browser, site + name, DESK)
    questions = page.locator(".quiz > ol > li")
    assert questions.count() == 5
    for i in range(5):
        kind, said = (".wrong", "No.") if i == 0 else (".right", "Right.")
        option = questions.nth(i).locator(f"details.option{kind}").first
        assert not option.locator("p").is_visible()
        option.locator("summary").click()
        assert option.locator("p").inner_text().startswith(said)
        assert option.locator("p a").count() >= 1, "it does not lead back to a section"
    assert page.locator(".quiz-count").inner_text() == "Right at the first try: 4 of 5."
    questions.nth(0).locator("details.option.right summary").click()
    assert page.locator(".quiz-count").inner_text() == "Right at the first try: 4 of 5."


@pytest.mark.parametrize("name", QUIZ_PAGES)
def test_the_quiz_answers_to_the_keyboard(site, browser, name):
    page, _ = see(browser, site + name, DESK)
    first = page.locator(".quiz details.option").first
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.locator("p").is_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    second = page.locator(".quiz details.option").nth(1)
    assert second.locator("p").is_visible() and not first.locator("p").is_visible()


@pytest.mark.parametrize("name", QUIZ_PAGES)
def test_quiz_and_solutions_open_without_javascript(site, browser, name):
    page, _ = see(browser, site + name, DESK, java_script_enabled=False)
    for fold in ("details.option.right", ".problem details.solution"):
        page.locator(f"{fold} > summary").first.click()
        assert page.locator(f"{fold} > :not(summary)").first.is_visible()


def test_a_solution_is_folded_until_it_is_asked_for(site, browser):
    for name in QUIZ_PAGES:
        page, _ = see(browser, site + name, DESK)
        assert page.locator(".problem details.solution").count() >= 4
        assert not any(
            page.locator(".problem details.solution pre").nth(i).is_visible() for i in range(4)
        )


def test_the_map_leads_to_the_chapters(site, browser):
    page, _ = see(browser, site + "index.html", DESK)
    links = page.eval_on_selector_all(".drawing a", "all => all.map(a => a.getAttribute('href'))")
    chapters = {name for name in PAGES if re.match(r"chapters/\d", name)}  # not the appendices
    assert set(links) == chapters


def test_the_self_test_draws_ten_and_keeps_the_score(site, browser):
    page, _ = see(browser, site + "selftest.html", DESK)
    questions = page.locator(".quiz > ol > li")
    assert questions.count() == 10
    drawn = questions.all_inner_texts()
    for i in range(10):
        questions.nth(i).locator(f"details.{'wrong' if i < 3 else 'right'}").first.locator(
            "summary"
        ).click()
    page.get_by_text("Right at the first try: 7 of 10.").wait_for()
    page.get_by_text("Your last scores, of 10: 7").wait_for()
    page.locator(".quiz-again").click()
    assert questions.count() == 10 and questions.all_inner_texts() != drawn
    assert page.locator(".quiz details[open]").count() == 0
    assert page.locator(".quiz-count").inner_text() == ""
    page.reload()
    page.get_by_text("Your last scores, of 10: 7").wait_for()


def test_without_javascript_the_self_test_is_a_long_quiz(site, browser):
    page, _ = see(browser, site + "selftest.html", DESK, java_script_enabled=False)
    assert page.locator(".quiz > ol > li").count() == 5 * 17


def test_a_question_is_found_by_its_words_and_opened_by_its_link(site, browser):
    page, _ = see(browser, site + "questions_1.html", DESK)
    questions = page.locator("details.question")
    count = questions.count()
    assert count >= 20 and not page.locator(".bank-short").first.is_visible()
    page.locator(".bank-field").fill("softmax mask")
    shown = [questions.nth(i).is_visible() for i in range(count)]
    assert 0 < sum(shown) < count
    page.get_by_text(f"{sum(shown)} of {count}").wait_for()
    where = questions.nth(0).get_attribute("id")
    page, _ = see(browser, site + f"questions_1.html#{where}", DESK)
    assert page.locator(f"#{where} .bank-short").is_visible()


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_slides_turn_show_their_figures_and_have_room(site, browser, part):
    page, complaints = see(browser, site + f"slides/part_{part}.html", DESK)
    seen, count = set(), page.locator("section").count()
    for _ in range(count):
        (now,) = [s for s in page.locator("section").all() if s.is_visible()]
        seen.add(now.inner_text())
        assert now.evaluate("s => s.scrollHeight <= s.clientHeight + 1"), now.inner_text()
        page.keyboard.press("ArrowRight")
    assert len(seen) > 0.9 * count  # two may say the same
    loaded = page.eval_on_selector_all("section img", "all => all.every(i => i.naturalWidth > 0)")
    assert loaded and page.locator("section img").count() >= 10
    assert complaints == []


SAID = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "five": 5, "ten": 10, "an hour": 60}
SAID |= {"half an hour": 30, "three quarters of an hour": 45}


@pytest.mark.parametrize("name", [page for page in PAGES if page.startswith("chapters/")])
def test_the_time_to_read_that_a_notebook_says_is_what_the_page_counts(name):
    counted = int(re.search(r"About (\d+) minutes", (HTML / name).read_text("utf-8"))[1])
    notebook = (ROOT / name).with_suffix(".ipynb").read_text("utf-8")
    estimate = re.search(r"\*\*Time\*\* ([\w -]+) to read", notebook)[1].lower()
    words = re.split(r" and |-", estimate.replace(" minutes", ""))
    assert abs(sum(SAID[word] for word in words) - counted) <= 5
