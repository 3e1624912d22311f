"""Tests of the tool that runs a notebook: outputs are written, standard error is not, faults are one line."""
import json

import pytest

from common.errors import DataError
from tools.run_notebook import run_notebook

pytest.importorskip("nbclient", reason="nbclient is missing: pip install -r requirements-test.txt")
pytest.importorskip("ipykernel", reason="ipykernel is missing: pip install -r requirements-test.txt")


def notebook(path, *sources):
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [],
              "source": source} for i, source in enumerate(sources)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4,
                                "nbformat_minor": 5}))
    return path


@pytest.mark.slow
def test_outputs_are_written_and_a_cell_that_fails_changes_nothing(tmp_path):
    good = notebook(tmp_path / "a.ipynb", "import os, sys\nsys.stderr.write('bar')\nprint(os.getcwd())", "1 / 2")
    run_notebook(good)
    first, second = json.loads(good.read_text())["cells"]
    assert [output["text"] for output in first["outputs"]] == [[f"{tmp_path}\n"]]
    assert second["outputs"][0]["data"]["text/plain"] == ["0.5"] and second["execution_count"] == 2
    bad = notebook(tmp_path / "b.ipynb", "1 / 0")
    before = bad.read_text()
    with pytest.raises(DataError, match=r"b.ipynb: a cell fails with ZeroDivisionError: division by zero$"):
        run_notebook(bad)
    assert bad.read_text() == before


@pytest.mark.parametrize("content", [None, "no JSON", "{}"])
def test_what_is_no_notebook_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(DataError, match=r"a.ipynb is no notebook \(") as error:
        run_notebook(tmp_path / "a.ipynb")
    assert "\n" not in str(error.value)
