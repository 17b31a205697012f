"""Notebooks run on another model when P2P_MODEL says so: small random ones of Stable Diffusion 1's and 3's topology.

These use what the others use, but for exercises and figures of their own.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .pipelines import build
from .transformers import build as build_transformer

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHOSEN = [("05*", "sd1"), ("06*", "sd1"), ("08*", "sd1"), ("09*", "sd3")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where the model of a kind is saved."""
    folder = tmp_path_factory.mktemp("models")

    def find(kind: str) -> Path:
        path = folder / kind
        if not path.exists():
            make = build if kind == "sd1" else build_transformer
            make(kind, folder / "tokenizer").save_pretrained(path)
        return path

    return find


@pytest.mark.parametrize(
    ("name", "kind"), CHOSEN, ids=[f"{name.strip('*')}-{kind}" for name, kind in CHOSEN]
)
def test_it_runs(name, kind, saved, monkeypatch):
    monkeypatch.setenv("P2P_MODEL", str(saved(kind)))
    notebook = nbformat.read(next(NOTEBOOKS.glob(f"{name}.ipynb")), 4)
    NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    skipped = [
        c for c in notebook.cells if c.cell_type == "code" and c.source.startswith("# Toyland only")
    ]
    assert all(c.outputs[0]["text"].startswith("Skipped on ") for c in skipped)
    assert "UserWarning" not in str([c.get("outputs") for c in notebook.cells])
