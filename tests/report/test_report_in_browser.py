"""The report in a real browser: it works, in both colour schemes and on a phone, and stays offline.

Needs Playwright and an installed Chromium or Chrome; skipped without.
"""

import shutil
from dataclasses import replace

import pytest

from adaspec_rl.comparison.selection import Selection
from adaspec_rl.data.encoding import ChatFacts
from adaspec_rl.report.page import write_report
from adaspec_rl.report.policy_map import policy_map
from tests.report.test_report import (
    EVIL,
    PROFILE,
    bundle,
    comparison,
    example,
    reported,
    sample_report,
)

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --no-first-run "
    "--disable-component-update --disable-sync"
).split()
SECTIONS = ["speedup", "domains", "drafting", "policy", "costs", "rounds", "methods"]


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser to open the report in: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a report; whatever the page complains of or asks a network for fails the test."""
    complaints, requests, pages = [], [], []

    def opened(report, scheme="light", width=1280):
        path = tmp_path / "report.html"
        write_report(path, report)
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.goto(path.as_uri())
        pages.append((page, path.as_uri()))
        return page

    yield opened
    for page, _ in pages:
        page.close()
    assert complaints == []
    assert requests == [uri for _, uri in pages]


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


CONTRAST = """() => {
  const number = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const below = node => {
    for (let at = node; at; at = at.parentElement) {
      const colour = number(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const found = {};
  for (const selector of [".verdict", ".meta", "h1", "tr.learned th", ".gain", ".loss", "td small",
      ".t.accepted", ".t.corrected", ".t.bonus", ".t.fallback", ".prompt", "pre", "figcaption"]) {
    const node = document.querySelector(selector);
    const [a, b] = [light(number(getComputedStyle(node).color)), light(below(node))];
    found[selector] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_there_and_legible(visit, scheme):
    page = visit(sample_report(), scheme)
    assert page.locator("section").evaluate_all("all => all.map(one => one.id)") == SECTIONS
    for name in SECTIONS:
        section = page.locator(f"#{name}")
        assert section.is_visible() and section.bounding_box()["height"] > 100, name
        assert section.locator("h2").count() == 1
    assert page.locator("h1").text_content() == "Learned draft lengths & others"
    assert page.locator("nav a").count() == len(SECTIONS)
    for chart in page.locator("svg[role=img]").all():
        assert chart.get_attribute("aria-label")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper[4:].split(",")[0]) < 60) == (scheme == "dark")
    faint = {name: ratio for name, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5}
    assert faint == {}
    assert overflow(page) <= 0


def test_another_comparison_changes_all_that_depends_on_it(visit):
    page = visit(sample_report())
    shown = [page.locator(f"#{name}") for name in ("speedup-intro", "speedup-bars", "domain-table")]
    before = [part.text_content() for part in shown]
    assert "1.55" in before[1] and "▲ +6.0%" in before[1]
    page.locator("label", has_text="replayed, temperature 0.8").click()
    after = [part.text_content() for part in shown]
    assert all(a != b for a, b in zip(after, before))
    assert "0.8 (coupled" in after[0] and "▼ −1.0%" in after[1]


def test_every_comparison_shows_its_own_policy_and_costs(visit):
    report = sample_report()
    report.comparisons[1] = replace(
        report.comparisons[1],
        policy_map=policy_map(bundle(("cost",), seed=1)),
        profile=replace(PROFILE, device="another machine"),
    )
    page = visit(report)
    shown = [page.locator(f"#{name}") for name in ("policy-chart", "cost-table")]
    before = [part.text_content() for part in shown]
    page.locator("label", has_text="replayed, temperature 0.8").click()
    after = [part.text_content() for part in shown]
    assert before[0] != after[0] and "another machine" in after[1] and before[1] != after[1]
    page.locator("label", has_text="live, temperature 0").click()
    assert [part.text_content() for part in shown] == before


def test_wins_and_losses_by_domain_are_told_without_colour(visit):
    page = visit(sample_report())
    learned = page.locator("#domain-table tr.learned")
    assert "▲ +9.0%" in learned.text_content() and "▼ −1.2%" in learned.text_content()
    winners = page.locator("#domain-table tbody tr:has(.won) > th").all_text_contents()
    assert winners == ["fixed 3", "learned"]  # on prose; on code and all prompts
    assert page.locator("#domain-table .won").count() == 3


def test_a_token_tells_what_was_decided_and_seen(visit):
    page = visit(sample_report())
    card, tokens = page.locator("#card"), page.locator("#text-left .t")
    assert card.is_hidden() and tokens.count() == 5
    tokens.nth(1).hover()
    told = card.text_content()
    assert "Round 2 of 2" in told and "Draft up to 12, stop below 0.45" in told
    assert "3 drafted, 3 accepted" in told and "acceptance ema 2" in told and "0.713" in told
    page.mouse.move(5, 5)
    assert card.is_hidden()
    tokens.nth(0).focus()  # the keyboard does the same
    assert "Round 1 of 2" in card.text_content() and "Fallback" in card.text_content()
    page.keyboard.press("ArrowDown")
    assert "Round 2 of 2" in card.text_content()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent").startswith("</script>")
    page.keyboard.press("Escape")
    assert card.is_hidden()
    assert page.locator("#text-left [tabindex='0']").count() == 1


def test_controllers_and_prompts_can_be_chosen(visit):
    page = visit(sample_report())
    left, right = page.locator("#text-left"), page.locator("#text-right")
    assert page.locator("#method-left").input_value() == "learned"
    assert page.locator("#method-right").input_value() == "fixed_3"
    assert right.locator(".round").count() == 2 and right.locator(".t.corrected").count() == 2
    assert "drafted in vain 3" in page.locator(".pane").nth(1).text_content()
    page.locator("#method-right").select_option("autoregressive")
    assert right.locator(".round").count() == 5 and right.locator(".t.fallback").count() == 5
    assert left.text_content() == right.text_content()
    assert "⏎" in right.text_content() and EVIL in right.text_content()
    page.locator("#prompt").select_option("1")
    turns = page.locator("#prompt-text .turn")
    assert turns.all_text_contents() == [f"usercode-test-1 {EVIL}", "assistantYes."]
    assert turns.locator("b").all_text_contents() == ["user", "assistant"]
    assert left.text_content().endswith(" end")
    page.locator("#method-right").select_option("fixed_3")
    rejected = right.locator(".rejected").first
    assert rejected.is_hidden()
    page.locator("#rejects").check()
    assert rejected.is_visible() and rejected.text_content() == " y"


def test_it_fits_a_phone(visit):
    page = visit(sample_report(), width=400)
    assert overflow(page) <= 0
    page.locator("#text-left .t").nth(3).click()
    box = page.locator("#card").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 400
    for summary in page.locator("summary").all():
        summary.click()
    page.locator("#extra").select_option("ucb1")
    assert overflow(page) <= 0


def test_little_data_makes_a_small_page_without_errors(visit):
    bare = reported(comparison(domains={}, lossless=None), profile=None, policy_map=None)
    page = visit(sample_report(comparisons=[bare], examples=[example()]), width=400)
    sections = page.locator("section").evaluate_all("all => all.map(one => one.id)")
    assert sections == [name for name in SECTIONS if name not in ("policy", "costs")]
    assert page.locator("#switch").is_hidden()
    assert page.locator("#text-left .t").count() == 5 and overflow(page) <= 0


def test_it_says_what_ran_where_on_which_prompts(visit):
    few = comparison(
        prompts=39,
        selection=Selection(asked=260, taken=39, per_domain=3, minutes=10.0),
        chat=ChatFacts("auto", 39, "872be49dbb638044"),
    )
    said = visit(sample_report(comparisons=[reported(few)])).locator("#meta").text_content()
    assert said == (
        "tiny (6c07f478) · compiled, float32, cpu · some CPU, 2 threads · 39 of 260 prompts, as "
        "many as 10 minutes allow · through the chat template · 2025-01-31 12:00"
    )


def test_300_prompts_are_there_within_a_second(browser, tmp_path):
    report = sample_report(examples=[example(f"code-test-{n}", " end" * 40) for n in range(300)])
    write_report(tmp_path / "report.html", report)
    page = browser.new_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})  # its own time, no waiting
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#prompt option").count() == 300
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    page.close()
    taken = {item["name"]: item["value"] for item in metrics}
    assert 0 < taken["TaskDuration"] < 1.0  # 0.24 s on a busy machine
