"""Two pieces that the book's directives share: a fold (<details>) and a table."""

from docutils import nodes


class fold(nodes.General, nodes.Element):
    """Something folded away; its first child is a fold_title. HTML: <details>."""


class fold_title(nodes.General, nodes.TextElement):
    """The line that stays in sight. HTML: <summary>."""


def make_fold(title: list[nodes.Node], content: list[nodes.Node], *classes: str) -> fold:
    """A fold: title is inline nodes, content is block nodes, classes become CSS classes."""
    return fold("", fold_title("", "", *title), *content, classes=["fold", *classes])


def make_table(head: list[str], rows: list[list[nodes.Node]], *classes: str) -> nodes.table:
    """A table of inline nodes. A first cell with ids gives its row the anchor."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row([nodes.Text(title) for title in head]))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group, classes=["book-table", "colwidths-auto", *classes])


def _row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def _open(tag: str):
    return lambda self, node: self.body.append(self.starttag(node, tag, ""))


def _close(tag: str):
    return lambda self, node: self.body.append(f"</{tag}>\n")


def _nothing(self, node):
    pass


def setup(app):
    plain = dict.fromkeys(("latex", "text", "man", "texinfo"), (_nothing, _nothing))
    app.add_node(fold, html=(_open("details"), _close("details")), **plain)
    app.add_node(fold_title, html=(_open("summary"), _close("summary")), **plain)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
