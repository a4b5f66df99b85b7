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
SLIDES = [f"slides/part_{part}.html" for part in (1, 2, 3, 4)]
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
    beginnings = page.eval_on_selector_all(
        "div.math mjx-math",
        """all => all.filter((m) => m.checkVisibility()).filter((m) =>
            m.getBoundingClientRect().left < m.closest("div.math").getBoundingClientRect().left - 1)
            .map((m) => m.parentElement.innerText)""",
    )
    assert beginnings == [], "nobody can scroll to the beginning of a formula"
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


def test_formulas_are_there_without_a_server_and_without_javascript(browser):
    for name in (page for page in PAGES if page.startswith(("chapters/", "notation"))):
        address = (HTML / name).resolve().as_uri()
        page, complaints = see(browser, address, DESK, java_script_enabled=False)
        assert complaints == []
        assert page.locator(".math").count() == page.locator("mjx-container").count()
        letter = page.locator("mjx-math:visible mjx-mi.mjx-i").first
        assert letter.bounding_box()["width"] > 1, "the characters have no style"


def fonts(page):
    """The families that a page has loaded."""
    loaded = "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family)"
    return {name.strip('"') for name in page.evaluate(loaded)}


def test_formulas_are_set_in_their_own_fonts(site, browser):
    page, _ = see(browser, site + "chapters/01_self_attention.html", DESK)
    page.evaluate("document.fonts.ready.then(() => null)")
    assert {"MJXTEX", "MJXTEX-I"} <= fonts(page)


def test_icons_come_from_the_small_font(site, browser):
    for viewport in (DESK, PHONE):
        page = browser.new_context(viewport=viewport).new_page()
        asked = []
        page.on("request", lambda r, asked=asked: asked.append(r.url))
        page.goto(site + "chapters/01_self_attention.html", wait_until="networkidle")
        assert [url for url in asked if "fontawesome" in url] == []
        assert "Font Awesome 6 Free" in fonts(page)


# A page before any of its widgets is started, as the server sends it, not compressed.
@pytest.mark.parametrize("name", [p for p in PAGES if re.match(r"index|chapters/", p)])
def test_a_page_is_light(site, browser, name):
    page = browser.new_context(viewport=DESK).new_page()
    responses = []
    page.on("response", lambda response: responses.append(response))
    page.goto(site + name, wait_until="networkidle")
    sizes = {r.url.removeprefix(site): len(r.body()) for r in responses}
    assert sum(sizes.values()) <= 1_500_000, sorted(sizes.items(), key=lambda s: -s[1])[:8]


# Marks, of all elements with text of their own that look alike, the first: a page has some fifty
# looks and thousands of elements, and axe needs milliseconds to find the ground behind each.
MARK_LOOKS = """theme => {
  document.documentElement.dataset.theme = theme;
  const seen = new Set();
  const shown = [...document.querySelectorAll("body *:not(mjx-container *)")].filter((e) =>
    e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  for (const e of document.querySelectorAll("[data-look]")) delete e.dataset.look;
  for (const e of shown) {
    const { color, fontSize, fontWeight } = getComputedStyle(e);
    const look = [color, fontSize, fontWeight];
    for (let up = e; up; up = up.parentElement) {
      const { backgroundColor: ground, opacity } = getComputedStyle(up);
      if (opacity !== "1" || ground !== "rgba(0, 0, 0, 0)") look.push(ground, opacity);
    }
    if (!seen.has(String(look))) e.dataset.look = "";
    seen.add(String(look));
  }
}"""


def violations(axe, page, where, **rules):
    """What axe finds against accessibility: the rule, the theme, the element, the reason."""
    options = {"resultTypes": ["violations"], **rules}
    theme = page.evaluate("document.documentElement.dataset.theme")
    return [
        (violation["id"], theme, node["target"], node["failureSummary"])
        for violation in axe.run(page, where, options).response["violations"]
        for node in violation["nodes"]
    ]


def open_all(page):
    """Show what is folded, and every slide at once, at rest."""
    page.add_style_tag(content="* { transition: none !important; }")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    if page.url.partition("#")[0].rpartition("/")[0].endswith("slides"):
        page.emulate_media(media="print")


def contrast(axe, page):
    found = []
    for theme in ("light", "dark"):
        page.evaluate(MARK_LOOKS, theme)
        found += violations(axe, page, {"include": [["[data-look]"]]}, runOnly=["color-contrast"])
    return found


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.mark.parametrize("name", [*PAGES, *SLIDES])
def test_a_page_shuts_nobody_out(site, browser, axe, name):
    page, _ = see(browser, site + name)
    open_all(page)
    page.wait_for_timeout(350)  # the theme looks again at what scrolls
    inside = {"exclude": [["mjx-math"], ["mjx-assistive-mml"]]}  # MathJax's own
    assert violations(axe, page, inside, rules={"color-contrast": {"enabled": False}}) == []
    page.set_viewport_size(DESK)
    assert contrast(axe, page) == []


def test_a_page_that_shuts_somebody_out_is_noticed(site, browser, axe):
    page, _ = see(browser, site + "chapters/01_self_attention.html", DESK)
    open_all(page)
    page.add_style_tag(content="html[data-theme=dark] .bd-article .fold p { color: #444; }")
    found = contrast(axe, page)
    assert {(rule, theme) for rule, theme, *_ in found} == {("color-contrast", "dark")}
    page.evaluate("document.querySelector('.cell_output img').alt = ''")
    page.evaluate("document.querySelector('.cell_output img').removeAttribute('alt')")
    assert "image-alt" in {rule for rule, *_ in violations(axe, page, None)}


@pytest.mark.parametrize("from_folder", [False, True], ids=["served", "from a folder"])
def test_the_search_finds_the_pages_with_a_word(site, browser, from_folder):
    root = HTML.resolve().as_uri() + "/" if from_folder else site
    page, complaints = see(browser, root + "chapters/01_self_attention.html", DESK)
    page.keyboard.press("Control+k")
    page.keyboard.type("perplexity")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"Search finished, found \d+ page")).wait_for()
    found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert len(found) >= 5
    for address in found:
        target = HTML / address.removeprefix(root).partition("#")[0].partition("?")[0]
        assert "perplexity" in target.read_text(encoding="utf-8").lower()
    page.locator("#search-results li a").first.click()
    page.locator("main .highlighted, main :target").first.wait_for()
    assert complaints == []


def focused(page):
    return page.evaluate("document.activeElement.className || document.activeElement.innerText")


def test_the_keyboard_goes_past_the_menu_and_shows_where_it_is(site, browser):
    page, _ = see(browser, site + "chapters/01_self_attention.html", DESK)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to main content"
    page.keyboard.press("Enter")
    buttons = []
    while page.evaluate("document.activeElement.closest('.bd-article') === null"):
        page.keyboard.press("Tab")
        page.wait_for_timeout(200)  # the theme fades it in
        said = "e => getComputedStyle(e).outlineStyle + getComputedStyle(e).boxShadow"
        assert page.locator(":focus").evaluate(said) != "nonenone", focused(page)
        buttons.append(focused(page))
    assert len(buttons) < 8 and any("theme-switch" in button for button in buttons)


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_a_side_bar_opens_and_closes_by_the_keyboard_on_a_phone(site, browser, which):
    page, _ = see(browser, site + "chapters/01_self_attention.html")
    page.locator(f".{which}-toggle").focus()
    page.keyboard.press("Enter")
    bar = page.locator(f"#pst-{which}-sidebar-modal")
    assert bar.is_visible() and bar.locator("a:visible").count() > 5
    page.keyboard.press("Escape")
    page.locator(f".{which}-toggle:focus").wait_for()
    assert not bar.is_visible()


def test_the_theme_is_switched_by_the_keyboard(site, browser):
    page, _ = see(browser, site + "index.html", DESK)
    button = page.locator(".theme-switch-button:visible")
    button.focus()
    grounds = set()
    for _ in range(3):
        page.keyboard.press("Enter")
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


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
