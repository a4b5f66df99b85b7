"""Quoted numbers: the {fact} role, the {facts-table} and {facts-grid} directives.

The ledger is chapters/facts.yml, a flat table of

    gpt2.small.n_params: {value: 124439808, unit: parameters, source: "radford2019, table 2"}

A key is made of words joined by dots. value is a number or a text; unit and note may be
left out. source begins with a key of references.bib; after the comma stands the place.

In a chapter, {fact}`124,439,808 <gpt2.small.n_params>` shows the number and links it to its
row on the facts page; it also reads well where roles are not known, as in JupyterLab. What is
shown must agree with the ledger (see agrees), or the build stops.
"""

import functools
import re
from decimal import Decimal
from pathlib import Path

import yaml
from book_nodes import make_table
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import ReferenceRole, SphinxDirective

SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NUMBER = re.compile(r"(\d{1,3}(?:[,\u202f\u00a0]\d{3})+|\d+)(\.\d+)?")


def load(srcdir: str | Path) -> dict[str, dict]:
    """The ledger: {key: {"value": …, "unit": …, "source": …, "note": …}}."""
    path = Path(srcdir) / "chapters/facts.yml"
    return _parse(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)  # a chapter quotes many facts
def _parse(path, changed):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def agrees(shown: str, value: int | float | str) -> bool:
    """Does the text shown say the ledger's value?

    A text must be the same, letter case aside. A number may be written 6e-4; or it may carry
    thousands separators, a scale ("124 million"), a % and words around it, and be rounded to
    the digits shown if those are at least two: "124 million" says 124439808, "1 billion"
    does not say 1557611200.
    """
    if isinstance(value, str):
        return shown.lower().split() == value.lower().split()
    if re.fullmatch(r"[\d.]+e-?\d+", shown):
        return Decimal(shown) == Decimal(str(value))
    found = list(NUMBER.finditer(shown))
    if len(found) != 1:
        return False
    number, after = found[0], shown[found[0].end() :].split()
    sign = -1 if shown[: number.start()].endswith(("-", "−")) else 1
    text = re.sub(r"[,\u202f\u00a0]", "", number[0])
    scale = SCALES.get(after[0].lower(), 1) if after else 1
    exact = Decimal(str(value)) / scale
    if sign * Decimal(text) == exact:
        return True
    places = Decimal(1).scaleb(-len((number[2] or ".")[1:]))
    digits = len(text.replace(".", "").lstrip("0"))
    return digits >= 2 and sign * Decimal(text) == exact.quantize(places)


def written(value: int | float | str) -> str:
    """A value as the book writes it: 124,439,808, but 1024; 0.25, and 1e-5."""
    if isinstance(value, float) and not 1e-4 <= abs(value) < 1e6:
        return re.sub(r"e([+-])0*", lambda e: "e" + e[1].strip("+"), f"{value:g}")
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


class FactRole(ReferenceRole):
    """{fact}`shown <key>`."""

    def run(self):
        facts = load(self.env.srcdir)
        self.env.note_dependency(str(Path(self.env.srcdir) / "chapters/facts.yml"))
        fact = facts.get(self.target)
        if fact is None:
            return self._error(f"chapters/facts.yml has no key {self.target!r}.")
        if not agrees(self.title, fact["value"]):
            return self._error(
                f"the text says {self.title!r}, the ledger {fact['value']!r} for {self.target}: "
                "which is right?"
            )
        ref = addnodes.pending_xref(
            "", refdomain="std", reftype="ref", refexplicit=True, refwarn=True
        )
        ref["reftarget"], ref["refdoc"] = label(self.target), self.env.docname
        ref += nodes.inline("", self.title)
        return [ref], []

    def _error(self, message):
        error = self.inliner.reporter.error(message, line=self.lineno)
        return [nodes.problematic(self.rawtext, self.rawtext)], [error]


class FactsTable(SphinxDirective):
    """{facts-table} prefix …: a row for each key that begins with one of the prefixes."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        chosen = self._chosen(self.arguments[0].split())
        rows = [self._row(key, fact) for key, fact in chosen.items()]
        return [make_table(["what", "value", "source"], rows, "facts")]

    def _chosen(self, prefixes):
        """The facts under the prefixes, in the order of the ledger."""
        self.env.note_dependency(str(Path(self.env.srcdir) / "chapters/facts.yml"))
        starts = tuple(f"{prefix}." for prefix in prefixes)
        facts = load(self.env.srcdir).items()
        chosen = {key: fact for key, fact in facts if f"{key}.".startswith(starts)}
        if not chosen:
            raise self.error(f"no key of chapters/facts.yml begins with {self.arguments[0]!r}.")
        return chosen

    def _row(self, key, fact):
        what = [self._anchored(key, nodes.literal("", key))]
        if "note" in fact:
            what += [nodes.raw("", "<br/>", format="html"), *self._inline(fact["note"])]
        value = f"{written(fact['value'])} {fact.get('unit', '')}".strip()
        return [nodes.inline("", "", *what), nodes.Text(value), self._source(fact)]

    def _anchored(self, key, node):
        """What shows a fact, with the label that {fact} links to."""
        std = self.env.get_domain("std")
        std.note_hyperlink_target(label(key), self.env.docname, label(key), key)
        return nodes.inline("", "", node, ids=[label(key)])

    def _source(self, fact):
        key, _, place = fact["source"].partition(",")
        cite = f"{{cite:t}}`{key}`" + (f",{place}" if place else "")
        return nodes.inline("", "", *self._inline(cite))

    def _inline(self, text):
        return self.state.inline_text(text, self.lineno)[0]


class FactsGrid(FactsTable):
    """{facts-grid} prefix …: a row a prefix, a column for each word that ends its keys."""

    def run(self):
        prefixes = self.arguments[0].split()
        chosen = self._chosen(prefixes)
        columns = list(dict.fromkeys(key.rpartition(".")[2] for key in chosen))
        rows = [
            [self._name(prefix, chosen), *self._cells(prefix, columns, chosen)]
            for prefix in prefixes
        ]
        sources = {fact["source"]: self._source(fact) for fact in chosen.values()}
        notes = [(key, fact["note"]) for key, fact in chosen.items() if "note" in fact]
        under = nodes.bullet_list("")
        for source in sources.values():
            under += nodes.list_item("", nodes.paragraph("", "Source: ", source))
        for key, note in notes:
            text = self._inline(note)
            under += nodes.list_item(
                "", nodes.paragraph("", "", nodes.literal("", key), nodes.Text(": "), *text)
            )
        return [make_table(["", *columns], rows, "facts"), under]

    def _name(self, prefix, chosen):
        units = {fact.get("unit") for key, fact in chosen.items() if key.startswith(f"{prefix}.")}
        unit = f", {units.pop()}" if len(units) == 1 and units != {None} else ""
        return nodes.inline("", "", nodes.literal("", prefix), nodes.Text(unit))

    def _cells(self, prefix, columns, chosen):
        for column in columns:
            key = f"{prefix}.{column}"
            value = nodes.Text(written(chosen[key]["value"]) if key in chosen else "")
            yield self._anchored(key, value) if key in chosen else value


def label(key: str) -> str:
    """The anchor of a fact on the facts page."""
    return "fact-" + re.sub(r"[^a-z0-9]+", "-", key.lower())


def setup(app):
    app.setup_extension("book_nodes")
    app.add_role("fact", FactRole())
    app.add_directive("facts-table", FactsTable)
    app.add_directive("facts-grid", FactsGrid)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
