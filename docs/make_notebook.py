"""The worked notebook, docs/notebook.ipynb: ``python -m docs.make_notebook [URL]`` runs it against a server and stores
what its cells show. Its cells are written here, so that a change is read as text; tests/docs/test_notebook.py runs them
too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"

TEXT, CODE = new_markdown_cell, new_code_cell
CELLS = [
    (
        TEXT,
        """# crosslook in a notebook

Start a server in a clone of the repository (`bash scripts/serve`), and install the client with what draws maps:
`pip install '.[overlay]'`. The images are those of `examples/`.""",
    ),
    (
        CODE,
        """import crosslook

client = crosslook.Client()  # http://127.0.0.1:8080, or what CROSSLOOK_URL names
client.health().ready""",
    ),
    (
        TEXT,
        """## One question

An answer shows itself: question, answer, its runners-up, and the image with the map of the answer. Point at a
word of the question to see where that word looked. Light is where it looked, dark where it did not.""",
    ),
    (
        CODE,
        """answer = client.answer("../examples/cat.jpg", "What animal is this?")
answer""",
    ),
    (
        TEXT,
        """The same as data. `peak` is the centre of the map's strongest cell, in pixels of the image; `reliability`
says how many answers with such a score to such a question were right when the model was tested (None where that was
not measured).""",
    ),
    (
        CODE,
        """print(answer.answer, answer.score, answer.reliability)
for word in answer.words:
    x, y, strength = word.peak()
    print(f"{word.text:8} looked most at x={x:.0f} y={y:.0f}")""",
    ),
    (
        TEXT,
        """## The map of one word

`overlay` draws on the image that was asked about; a notebook shows the picture that it returns. Where nothing
was looked at, the photograph stays as it is.""",
    ),
    (CODE, """answer.overlay(word="animal")"""),
    (TEXT, """The numbers are a NumPy array, a row of cells at a time, over the whole image."""),
    (
        CODE,
        """array = answer.for_word("animal").array()
array.shape, round(float(array.sum() + answer.for_word("animal").elsewhere), 3)""",
    ),
    (
        TEXT,
        """## Several questions, one image

The server encodes an image once: further questions about it are quick.""",
    ),
    (
        CODE,
        """questions = ["What is in the cup?", "What drink is this?", "How many cups are there?"]
answers = client.answer("../examples/coffee.jpg", questions)
for each in answers:
    right = each.reliability.right if each.reliability else float("nan")
    print(f"{each.question:26} {each.answer:10} {each.score:4.0%}   right {right:.0%} of the time")""",
    ),
    (TEXT, """## A choice between given answers"""),
    (
        CODE,
        """candidates = ["a rocket", "a ship", "a tower"]
chosen = client.answer("../examples/rocket.jpg", "What is this?", candidates=candidates)
[(each.answer, round(each.score, 3)) for each in chosen.ranking]""",
    ),
    (
        TEXT,
        """## Many images

Several requests are under way at once, and the results are in order. On the command line the same is `crosslook
ask --images examples "Is there an animal?" --csv`.""",
    ),
    (
        CODE,
        """from pathlib import Path

paths = sorted(Path("../examples").glob("*.jpg"))
results = client.ask_many([(path, ["Is there an animal?"]) for path in paths], maps="none")
for path, (found,) in zip(paths, results):
    print(f"{path.name:14} {found.answer:4} {found.score:.0%}")""",
    ),
    (
        TEXT,
        """`maps="none"` leaves the maps away. Errors are exceptions of `crosslook.errors`; [clients.md](clients.md) has
the rest.""",
    ),
    (CODE, """client.close()"""),
]


def make() -> NotebookNode:
    """The notebook, not run yet."""
    cells = [cell(source) for cell, source in CELLS]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # as given by nbformat, it changes with every run
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def run(notebook: NotebookNode, url: str) -> NotebookNode:
    """Run all cells against the server at ``url``. Raises CellExecutionError where one fails."""
    os.environ |= {"CROSSLOOK_URL": url, "PYTHONPATH": str(ROOT)}  # the kernel has them from here
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    executed: NotebookNode = client.execute()
    for cell in executed.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if {"text/html", "image/jpeg"} & shown.keys():
                shown.pop("image/png", None)  # the same once more, and large
    return executed


if __name__ == "__main__":
    nbformat.write(run(make(), sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"), NOTEBOOK)
