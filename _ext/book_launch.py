"""Where the book is published: nothing of that is known here, so the one who builds it says it.

* BOOK_REPOSITORY, https://github.com/owner/name: each chapter gets buttons that open it in Colab
  and in Binder, from the branch that `python -m tools.launch` makes; each page, the repository and
  its issues.
* BOOK_URL, the address of the first page: it stands in citations, and each page names its own.

Without them no button and no citation leads anywhere.
"""

import os

LAUNCH = {
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "repository_branch": "launch",
    "use_repository_button": True,
    "use_issues_button": True,
}


def read_addresses(app, config):
    config.html_baseurl = os.environ.get("BOOK_URL", "")
    if repository := os.environ.get("BOOK_REPOSITORY"):
        config.html_theme_options |= {"repository_url": repository, **LAUNCH}


def setup(app):
    app.connect("config-inited", read_addresses)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
