"""Results for people: whatever things are called, they are shown by name."""

import io

from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from adaspec_rl.comparison.results import results_table
from adaspec_rl.report.plots import speedup_plot
from tests.report.test_report import comparison, scope

NAMES = st.text("[]/\\:ab$", min_size=1).map(lambda text: f"<{text}>")


def named(domain, pair, method):
    """A comparison of one domain in which everything has the given names."""
    found = comparison(domains={domain: scope(1.1, (1.0, 1.2))})
    found["pair"]["name"] = pair
    for part in (found, *found["domains"].values()):
        part["methods"][method] = part["methods"].pop("ucb1")
        for figures in part["methods"].values():
            figures |= {"versus_best_fixed": 1.0, "versus_best_fixed_ci95": [0.9, 1.1]}
            figures["identical"] = 1.0
    return found


@given(NAMES, NAMES, NAMES)
@example("[/oops]", "[bold]", ":cat:")
def test_names_are_shown_as_they_are(domain, pair, method):
    file = io.StringIO()
    Console(file=file, width=400, emoji=False).print(results_table(named(domain, pair, method)))
    title, heading, *rows = file.getvalue().splitlines()
    assert title.startswith(f"{pair}, temperature") and heading.rstrip().endswith(domain)
    assert any(row.startswith(method) for row in rows)


def test_dollars_in_names_are_no_formulas(tmp_path):
    found = {**named("$\\frac$", "a $ b $", "$^$"), "device": "$_$"}
    speedup_plot(found, tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").stat().st_size > 1000


def test_many_domains_are_drawn_in_rows(tmp_path):
    found = {**named("a", "pair", "method"), "device": "CPU"}
    (values,) = found["domains"].values()
    sizes = {}
    for count in (1, 13):
        domains = {f"domain {n}": values for n in range(count)}
        speedup_plot({**found, "domains": domains}, tmp_path / "speedup.png")
        sizes[count] = imread(tmp_path / "speedup.png").shape[:2]
    assert sizes[13][0] == 3 * sizes[1][0]
    assert sizes[13][1] == 5 * sizes[1][1] // 2
