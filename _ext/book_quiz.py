"""The quiz at the end of a chapter: the {quiz} directive.

questions/NN_name.yml has five under "quiz", and the chapter's bank (see book_questions):

    - question: Why are the scores divided by $\\sqrt{D}$?
      link: why-scale            # a label in the chapter: (why-scale)= above a heading
      options:                   # 3 to 5, exactly one right
        - {text: "…", right: true, why: "The sentence that answers who chose this."}
        - {text: "…", right: false, why: "…"}

All texts are MyST markdown. Each option is a <details> that opens to its answer, so the quiz
works by mouse, by keyboard and without JavaScript; _static/quiz.js only adds the count.
"""

from pathlib import Path

import yaml
from book_nodes import make_fold
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def read(path: Path) -> list[dict]:
    """The questions of one chapter. Raises ValueError where the file breaks the format."""
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    questions = whole.get("quiz") if isinstance(whole, dict) else None
    if not isinstance(questions, list) or len(questions) != 5:
        raise ValueError(f"{path.name}: a quiz is a list of 5 questions.")
    for i, question in enumerate(questions, 1):
        if not isinstance(question, dict) or set(question) != {"question", "link", "options"}:
            raise ValueError(f"{path.name}, {i}: a question has question, link and options.")
        options = question["options"]
        if not 3 <= len(options) <= 5 or any(set(o) != {"text", "right", "why"} for o in options):
            raise ValueError(f"{path.name}, {i}: give 3 to 5 options of text, right and why.")
        if sum(option["right"] is True for option in options) != 1:
            raise ValueError(f"{path.name}, {i}: exactly one option is right.")
    return questions


class Quiz(SphinxDirective):
    """{quiz} chapter."""

    required_arguments = 1

    def run(self):
        path = Path(self.env.srcdir) / "questions" / f"{self.arguments[0]}.yml"
        if not path.is_file():
            raise self.error(f"there is no questions/{path.name}.")
        self.env.note_dependency(str(path))
        try:
            questions = read(path)
        except ValueError as error:
            raise self.error(str(error)) from None
        items = [nodes.list_item("", *self._question(q)) for q in questions]
        return [nodes.container("", nodes.enumerated_list("", *items), classes=["quiz"])]

    def _question(self, question):
        yield nodes.paragraph("", "", *self._inline(question["question"]))
        for option in question["options"]:
            verdict = "Right. " if option["right"] else "No. "
            back = f" See {{ref}}`{question['link']}`."
            why = [nodes.strong("", verdict), *self._inline(option["why"] + back)]
            kind = "right" if option["right"] else "wrong"
            content = [nodes.paragraph("", "", *why)]
            yield make_fold(self._inline(option["text"]), content, "option", kind)

    def _inline(self, text):
        return self.state.inline_text(text, self.lineno)[0]


def setup(app):
    app.setup_extension("book_nodes")
    app.add_directive("quiz", Quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
