"""How long a chapter takes to read: counted, and said by the card at its top.

In the notebook the card says it by estimate, "**Time** Half an hour to read; …". In the page a
count takes the estimate's place: words at the pace of the ledger, reading.pace, and some
seconds for a line of code, and for a formula on a line of its own or a figure. What is folded
away is not counted, nor are the quiz and the exercises.
"""

import re
from itertools import chain

import book_facts
from book_nodes import fold
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

CODE = 4  # seconds a line
LOOK = 30  # seconds a formula or a figure
NOT_READ = (fold, nodes.comment, nodes.raw)
ASIDE = {"quiz", "problem"}
TIME = re.compile(r"^ [\w -]+ to read\b")


def seconds(node: nodes.Node, pace: float) -> float:
    """How long a part of a page takes to read, at pace words a minute."""
    if isinstance(node, nodes.Text):
        return 60 / pace * len(node.split())
    classes = set(node["classes"])
    if isinstance(node, NOT_READ) or classes & ASIDE:
        return 0
    if isinstance(node, nodes.literal_block) and "output" not in classes:
        return CODE * sum(bool(line.strip()) for line in node.astext().splitlines())
    if isinstance(node, (nodes.math_block, nodes.image)):
        return LOOK
    seen = node.children[1:] if "tag_hide-input" in classes else node.children
    return sum(seconds(child, pace) for child in seen)


def minutes(document: nodes.document, pace: float) -> int:
    """The same in minutes, to the nearest five."""
    return max(5, 5 * round(seconds(document, pace) / 300))


def count(app, document):
    """Put the count where the card of a chapter has an estimate."""
    page = app.env.docname
    if not page.startswith("chapters/"):
        return
    boxes = document.findall(nodes.admonition)
    texts = (box.findall(nodes.Text) for box in boxes if "chapter-card" in box["classes"])
    estimate = next(filter(TIME.match, chain(*texts)), None)
    if estimate is None:
        logging.getLogger(__name__).warning("no card that says the time to read", location=page)
        return
    app.env.note_dependency("chapters/facts.yml")
    pace = book_facts.load(app.srcdir)["reading.pace"]["value"]
    said = nodes.inline("", f"About {minutes(document, pace)} minutes")
    where = {"refdomain": "std", "reftype": "ref", "reftarget": "reading-time", "refdoc": page}
    link = addnodes.pending_xref("", said, **where, refexplicit=True, refwarn=True)
    rest = nodes.Text(TIME.sub(" to read", estimate))
    estimate.parent.replace(estimate, [nodes.Text(" "), link, rest])


def setup(app):
    app.connect("doctree-read", count)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
