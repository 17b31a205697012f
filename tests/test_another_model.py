"""Notebooks run on another model when P2P_MODEL says so: a small random one of Stable Diffusion 1's topology.

These use what the others use, but for exercises and figures of their own.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .pipelines import build

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHOSEN = [f"{name}.ipynb" for name in ("05*", "06*", "08*")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build("sd1", folder / "tokenizer").save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.mark.parametrize(
    "path", [next(NOTEBOOKS.glob(name)) for name in CHOSEN], ids=lambda path: path.stem
)
def test_it_runs(path, model, monkeypatch):
    monkeypatch.setenv("P2P_MODEL", str(model))
    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    skipped = [
        c for c in notebook.cells if c.cell_type == "code" and c.source.startswith("# Toyland only")
    ]
    assert all(c.outputs[0]["text"].startswith("Skipped on ") for c in skipped)
    assert "UserWarning" not in str([c.get("outputs") for c in notebook.cells])
