"""The theme's icons, without the thousand that no page shows.

The theme brings Font Awesome twice: as a script of 1.5 MB, which templates/ leaves out, and as a
font of 150 KB with 90 KB of rules. Of these a font and the rules of the few icons in use are made.
"""

import base64
import io
import re
from pathlib import Path

from fontTools import subset

FACE = """@font-face {{
  font-family: "Font Awesome 6 Free"; font-weight: 900; font-display: block;
  src: url("data:font/woff;base64,{}") format("woff");
}}
"""
STYLE = "styles/pydata-sphinx-theme.css"
CLASS = re.compile(r"\bfa-[a-z-]+")  # in pages and the theme's scripts
RULE = re.compile(r'([^{}]+)\{content:"\\(\w+)"\}')  # .fa-sun:before{content:"\f185"}
VARIABLE = re.compile(r'--pst-icon[\w-]*:\s*"\\(\w+)"')  # the theme's own


def in_use(static: Path) -> set[str]:
    """The names of icons in the pages and in the theme's scripts."""
    files = [*static.parent.rglob("*.html"), *(static / "scripts").glob("*theme.js")]
    return set(CLASS.findall("".join(file.read_text(encoding="utf-8") for file in files)))


def cut(style: str, names: set[str]) -> str:
    """The theme's style sheet without the rules of other icons."""

    def needed(rule):
        icons = CLASS.findall(rule[1])
        return rule[0] if names.intersection(icons) or not icons else ""

    return RULE.sub(needed, style)


def code_points(style: str) -> set[int]:
    """Which characters of the font a style sheet shows."""
    codes = [code for which, code in RULE.findall(style) if CLASS.search(which)]
    return {int(code, 16) for code in codes + VARIABLE.findall(style)}


def add_icons(app):
    if app.builder.name == "html":
        app.add_css_file("icons.css")


def write_icons(app, exception):
    """Cut the theme's style sheet, which each build copies anew, and write _static/icons.css."""
    if exception or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    style = cut((static / STYLE).read_text(encoding="utf-8"), in_use(static))
    (static / STYLE).write_text(style, encoding="utf-8")
    options = subset.Options(flavor="woff", layout_features=[])
    source = static / "vendor/fontawesome/webfonts/fa-solid-900.ttf"
    font = subset.load_font(source, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=code_points(style))
    subsetter.subset(font)
    made = io.BytesIO()
    subset.save_font(font, made, options)
    text = base64.b64encode(made.getvalue()).decode()
    (static / "icons.css").write_text(FACE.format(text), encoding="utf-8")


def setup(app):
    app.connect("builder-inited", add_icons)
    app.connect("build-finished", write_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
