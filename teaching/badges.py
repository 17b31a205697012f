"""Put badges that open the notebooks in Colab and Binder into them: `python -m teaching.badges`.

Run it once both can find the repository at the address that `Source` in pyproject.toml names; run again, it replaces what it wrote.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
WRITTEN = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.M)


def repository() -> str:
    """The owner and the name of the repository, from pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^Source = "https://github\.com/(.+)"', project, re.M)[1]


def with_badges(title: str, path: str, repository: str) -> str:
    """The text of a notebook's first cell with badges below its heading.

    Args:
        title: the text, with badges or without.
        path: of the notebook in the repository.
        repository: its owner and name.
    """
    links = {
        "Colab": f"https://colab.research.google.com/github/{repository}/blob/main/{path}",
        "Binder": f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{path}",
    }
    badges = " ".join(
        f"[![Open in {host}](../docs/badges/{host.lower()}.svg)]({link})"
        for host, link in links.items()
    )
    heading, _, rest = WRITTEN.sub("", title).partition("\n\n")
    return f"{heading}\n\n{badges}\n\n{rest}"


def main():
    """Change the notebooks in place."""
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(file, 4)
        path = file.relative_to(ROOT).as_posix()
        notebook.cells[0].source = with_badges(notebook.cells[0].source, path, repository())
        nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
