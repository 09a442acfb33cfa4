"""docs/tour.ipynb, the tour of the Python API: it runs as it stands, and holds no output."""

import json
import os
import resource
from pathlib import Path

import pytest
from process_helpers import forked, outcome

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
CELLS = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_no_output_of_a_cell_is_committed() -> None:
    for cell in CELLS:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_tour_runs_from_top_to_bottom(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a process and a namespace of its own, as after `Restart kernel and run all`."""

    def run() -> None:
        os.chdir(tmp_path)
        import matplotlib as mpl

        mpl.use("Agg")
        values = {"__name__": "__main__"}
        for number, cell in enumerate(CODE):
            exec(compile(cell, f"cell {number}", "exec"), values)

    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code = outcome(forked(run))
    said = capfd.readouterr()
    assert code == 0, said.err
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 30
    first = float(said.out.split("EER before training ")[1].split("%")[0])
    last = float(said.out.split("epoch 8: ")[1].split("EER ")[1].split("%")[0])
    assert last < 0.9 * first
    assert {path.name for path in tmp_path.iterdir()} == {"tour"}
