"""Take the stills of the widgets from the built pages: what stands there before the model runs.

    python -m tools.stills

Build the book, run this, build again. Needs Chromium.
"""

import sys

from make import HTML, ROOT

sys.path.append(str(ROOT / "_ext"))
import book_chromium

STILLS = ROOT / "playground" / "stills"
# What the model draws, as XML, with words in place of buttons, which would do nothing.
TAKE = """async (root) => {
    await root.widget.wake();
    const parts = [root.querySelector(".view"), root.querySelector(".line")].map((part) => {
        const still = part.cloneNode(true);
        for (const button of still.querySelectorAll("button")) {
            const word = document.createElement("span");
            for (const name of ["class", "style"]) {
                if (button.hasAttribute(name)) word.setAttribute(name, button.getAttribute(name));
            }
            word.append(...button.childNodes);
            button.replaceWith(word);
        }
        return new XMLSerializer().serializeToString(still);
    });
    return parts.join("\\n").replaceAll(' xmlns="http://www.w3.org/1999/xhtml"', "") + "\\n";
}"""


def stills() -> dict[str, str]:
    """The still of each widget of the book that `make book` built, by the name of its file."""
    pages = [page for page in sorted(HTML.rglob("*.html")) if 'class="widget"' in page.read_text()]
    taken = {}
    with book_chromium.launch() as browser:
        for path in pages:
            page = browser.new_page()
            page.goto(path.resolve().as_uri())
            for root in page.query_selector_all(".widget[data-widget]"):
                name = f"{path.stem}-{root.get_attribute('data-widget')}.html"
                taken[name] = root.evaluate(TAKE)
            page.close()
    return taken


def main() -> None:
    STILLS.mkdir(exist_ok=True)
    taken = stills()
    for path in STILLS.glob("*.html"):
        if path.name not in taken:
            path.unlink()
    for name, text in taken.items():
        (STILLS / name).write_text(text, encoding="utf-8")
        print(f"{name:44} {len(text):7,} bytes")


if __name__ == "__main__":
    sys.exit(main())
