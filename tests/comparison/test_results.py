"""Results for people: whatever things are called, they are shown by name."""

import io
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from adaspec_rl.comparison.figures import PairName, ScopeFigures
from adaspec_rl.comparison.identity import adaptive_method
from adaspec_rl.comparison.tables import results_table
from adaspec_rl.report.plots import speedup_plot
from tests.report.test_report import comparison, figures, scope

NAMES = st.text("[]/\\:ab$", min_size=1).map(lambda text: f"<{text}>")


def named(domain, pair, method):
    """A comparison of one domain in which everything has the given names."""

    def with_method(found):
        odd = figures(adaptive_method(method, "somewhere"), 1.1)
        return ScopeFigures({**found.methods, method: odd}, found.best_fixed, 0.0)

    found = comparison(pair=PairName(pair, "0"), domains={})
    found.domains[domain] = with_method(scope(1.1, (1.0, 1.2)))
    return replace(found, overall=with_method(found.overall))


@given(NAMES, NAMES, NAMES)
@example("[/oops]", "[bold]", ":cat:")
def test_names_are_shown_as_they_are(domain, pair, method):
    file = io.StringIO()
    Console(file=file, width=400, emoji=False).print(results_table(named(domain, pair, method)))
    title, heading, *rows = file.getvalue().splitlines()
    assert title.startswith(f"{pair}, temperature") and heading.rstrip().endswith(domain)
    assert any(row.startswith(method) for row in rows)


def test_dollars_in_names_are_no_formulas(tmp_path):
    speedup_plot(named("$\\frac$", "a $ b $", "$^$"), "$_$", tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").stat().st_size > 1000


def test_many_domains_are_drawn_in_rows(tmp_path):
    found = named("a", "pair", "method")
    (values,) = found.domains.values()
    sizes = {}
    for count in (1, 13):
        domains = {f"domain {n}": values for n in range(count)}
        speedup_plot(replace(found, domains=domains), "CPU", tmp_path / "speedup.png")
        sizes[count] = imread(tmp_path / "speedup.png").shape[:2]
    assert sizes[13][0] == 3 * sizes[1][0]
    assert sizes[13][1] == 5 * sizes[1][1] // 2
