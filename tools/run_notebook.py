"""Run the cells of a notebook in order, and write it again with their outputs.

    python tools/run_notebook.py docs/python.ipynb

Needs nbclient and ipykernel (requirements-test.txt). A cell that fails ends it with the error, and the file stays as it
was. Standard error, such as progress bars, is left out.
"""
import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

from common import console
from common.errors import ConfigError, DataError
from common.files import whole_file


def run_notebook(path: Path) -> None:
    """Run a notebook in its own folder. Raises DataError if the file is none, or a cell of it fails."""
    try:
        import nbclient
        import nbformat
    except ImportError as error:
        raise ConfigError(f"notebooks need nbclient and ipykernel ({error}): pip install -r requirements-test.txt"
                          ) from error
    try:
        notebook: Any = nbformat.read(path, as_version=4)
    except Exception as error:  # of JSON, of the format, or of the file system
        raise DataError(f"{path} is no notebook ({' '.join(str(error).split())[:120]})") from error
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(notebook, timeout=None, record_timing=False,
                                     resources={"metadata": {"path": str(path.resolve().parent)}})
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise DataError(f"{path}: a cell fails with {error.ename}: {error.evalue}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    with whole_file(path) as partial:
        nbformat.write(notebook, partial)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    run_notebook(parser.parse_args(argv).notebook)


if __name__ == "__main__":
    sys.exit(console.run(main))
