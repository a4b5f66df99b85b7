"""What makes the HTML of Sphinx and docutils fit for those who hear it or use only the keyboard.

* Where the head of a column is empty it is a plain cell, for a <th> must say something.
* An entry of the bibliography is an item of a list: docutils' role for it is out of use.
* What is folded has no link in its title: a click there opens the fold.
"""

from book_nodes import fold_title
from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform


def visit_entry(self, node):
    type(self).visit_entry(self, node)
    if not node.astext().strip():
        self.body[-1] = self.body[-1].replace("<th", "<td")
        self.context[-1] = self.context[-1].replace("</th", "</td")


def visit_citation(self, node):
    type(self).visit_citation(self, node)
    self.body[-1] = self.body[-1].replace("doc-biblioentry", "listitem")


class PlainTitles(SphinxPostTransform):
    """Take the links, by now resolved, out of the titles of folds."""

    default_priority = 900

    def run(self):
        for title in self.document.findall(fold_title):
            for link in list(title.findall(nodes.reference)):
                link.replace_self(link.children)


def setup(app):
    app.add_node(nodes.entry, override=True, html=(visit_entry, None))
    app.add_node(nodes.citation, override=True, html=(visit_citation, None))
    app.add_post_transform(PlainTitles)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
