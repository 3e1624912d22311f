"""Filters of a report: selects of which rows and videos it shows, and the page's only script."""
import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence

from benchmarks.studies.measures import measure_of

Value = str | int | float
BETWEEN = " / "  # the two sides of a comparison in one value
# Hides whatever has another value than the chosen one, or does not have the searched text. It makes no markup of names.
SCRIPT = """
const bar = document.querySelector(".filters"), shown = document.querySelectorAll("[data-of]");
function apply() {
  const text = bar.querySelector("input").value.toLowerCase();
  const chosen = [...bar.querySelectorAll("select")].filter(one => one.value !== "");
  for (const one of shown) {
    const of = JSON.parse(one.dataset.of);
    const fits = chosen.every(select => !(select.name in of) || of[select.name].includes(select.value));
    one.hidden = !fits || !one.textContent.toLowerCase().includes(text);
  }
}
if (bar) { bar.hidden = false; bar.addEventListener("input", apply); apply(); }
"""
_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# Nothing is loaded from anywhere and no other script runs, even if a name in the results should have become markup.
POLICY = ("default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
          f"script-src 'sha256-{_DIGEST}'")


def filter_bar(choices: Mapping[str, Sequence[Value]]) -> str:
    """Return a bar with a search field and a select for each name that has several values; the script shows it."""
    several = {name: values for name, values in choices.items() if len(values) > 1}
    selects = "".join(_select(name, values) for name, values in several.items())
    search = '<label>search <input type="search" autocomplete="off"></label>'
    return f'<div class="filters" hidden>{search}{selects}</div>'


def _select(name: str, values: Sequence[Value]) -> str:
    options = "".join(f"<option>{html.escape(str(value))}</option>" for value in values)
    return (f'<label>{html.escape(measure_of(name).spoken)} <select name="{html.escape(name)}">'
            f'<option value="">all</option>{options}</select></label>')


def filtered_by(values: Mapping[str, Value]) -> str:
    """Return the attribute by which the filters find an element with these values."""
    sides = {name: str(value).split(BETWEEN) for name, value in values.items()}
    return f'data-of="{html.escape(json.dumps(sides))}"'
