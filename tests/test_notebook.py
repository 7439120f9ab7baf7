"""docs/use_a_model.ipynb runs, cell by cell, with a tiny model in the demo's place."""

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from repository import ROOT
from saved_model import save_model
from tiny_model import compiler_settings

NOTEBOOK = ROOT / "docs" / "use_a_model.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIMIX_CACHE", str(tmp_path / "cache"))
    save_model(tmp_path / "runs" / "demo")
    shown, names = [], {"__name__": "__main__"}
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()) or plt.close())
    with compiler_settings():
        for number, code in enumerate(code_cells()):
            exec(compile(code, f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    assert len(shown) == 4
    assert names["similarity"].shape == (60, 60)


def test_the_notebook_shows_its_pictures():
    """They lie in the file, so that they are seen without running it."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    assert NOTEBOOK.stat().st_size < 600_000
