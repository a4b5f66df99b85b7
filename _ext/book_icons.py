"""The theme's icons, without the thousand that no page shows.

The theme brings Font Awesome twice: as a script of 1.5 MB, which templates/ leaves out, and as a
font of 150 KB. Of that a font of the few icons in use is made, and goes before it; an icon that is
not in it comes from the whole font as ever.
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
CLASS = re.compile(r"\bfa-[a-z-]+")  # in pages and the theme's scripts
RULE = re.compile(r'([^{}]+)\{content:"\\(\w+)"\}')  # .fa-sun:before{content:"\f185"}
VARIABLE = re.compile(r'--pst-icon[\w-]*:\s*"\\(\w+)"')  # the theme's own


def in_use(static: Path) -> set[int]:
    """The code points of the icons that the pages, the scripts or the theme's styles name."""
    files = [*static.parent.rglob("*.html"), *(static / "scripts").glob("*theme.js")]
    names = set(CLASS.findall("".join(file.read_text(encoding="utf-8") for file in files)))
    style = (static / "styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    rules = [(CLASS.findall(which), code) for which, code in RULE.findall(style)]
    codes = [code for which, code in rules if names.intersection(which)]
    return {int(code, 16) for code in codes + VARIABLE.findall(style)}


def add_icons(app):
    if app.builder.name == "html":
        app.add_css_file("icons.css")


def write_icons(app, exception):
    """Write _static/icons.css."""
    if exception or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    options = subset.Options(flavor="woff", layout_features=[])
    source = static / "vendor/fontawesome/webfonts/fa-solid-900.ttf"
    font = subset.load_font(source, options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=in_use(static))
    cut.subset(font)
    made = io.BytesIO()
    subset.save_font(font, made, options)
    text = base64.b64encode(made.getvalue()).decode()
    (static / "icons.css").write_text(FACE.format(text), encoding="utf-8")


def setup(app):
    app.connect("builder-inited", add_icons)
    app.connect("build-finished", write_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
