"""The site: every table and figure with its numbers, links that lead somewhere, and nobody else's files touched."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from scipy import stats
from summaries import outcome

from moex import metrics
from moex.reporting.manifests import Cell, Number, Row, Study, Table
from moex.reporting.records import add_runs
from moex.reporting.site.answers import conclude, find_answers, tabulate_answers, tabulate_reported, tell_progress
from moex.reporting.site.build import MARK, build_site
from moex.reporting.site.exchange import Exchange, Pair, Shown
from moex.reporting.site.exhibits import find_exhibits, predictions_of
from moex.reporting.site.throughput import read_benchmarks
from moex.reporting.table_folder import add_run

ERRORS = {"plain": [0.30, 0.34, 0.29], "MoEx": [0.24, 0.27, 0.24], "MoEx & <i>CutMix</i>": [0.31, 0.33, 0.32]}
STEPS = {"plain": [], "MoEx": ["moex"], "MoEx & <i>CutMix</i>": ["cutmix", "moex"]}
TABLE = Table(
    title="Errors < others",
    note="With a note.",
    metrics=["error", "aurra"],
    seeds=[0, 1, 2],
    columns=["digits"],
    rows=[
        Row("plain", cells={"digits": Cell("a", paper=[Number(26.0, source="a paper", unconfirmed=True)])}),
        Row("MoEx", "plain", {"digits": Cell("b", paper=[Number(25.0, source="a description")])}),
        Row("MoEx & <i>CutMix</i>", "plain", {"digits": Cell("c")}),
    ],
)
STUDY = Study("A study", "", ["error"], [0, 1], "a", {}, {}, {"moex.weight": [0.5, 0.9, 1]}, 0.9)
BENCHMARK = """# Benchmark

A Processor; commit 0123. Medians of 3 rounds.

## MoEx in every step: ResNet-20

| | images/s | times the first | added time |
|---|--:|--:|--:|
| without MoEx | 1,000 (900 to 1,100) | 1.00 (1.00 to 1.00) | +0.0 % (+0.0 to +0.0) |
| with MoEx | 990 (890 to 1,090) | 0.99 (0.98 to 1.01) | +0.8 % (-1.0 to +2.0) |
"""


def write_run(folder, seed, error, *, steps=(), settings=(), confusion=False):
    """A finished run of 200 samples and 3 classes with about this error."""
    generator = np.random.default_rng([seed, round(1000 * error)])
    labels = generator.integers(0, 3, 200)
    answers = np.where(generator.random(200) < error, (labels + 1) % 3, labels)
    logits = generator.normal(size=(200, 3)) + 4 * np.eye(3)[answers]
    figures = metrics.summarise(logits, labels)
    result = outcome(
        figures,
        seed=seed,
        name="+".join(steps) or "none",
        recipe=({"augmentation.steps": list(steps)} if steps else {}) | dict(settings),
        epochs=3,
        config={"augmentation": {"steps": list(steps)}, "dataset": {"name": "digits"}},
    )
    if confusion:
        result["confusion"] = {"of": "last", "test": metrics.confusion_matrix(logits, labels).tolist()}
    run = folder / f"digits-{'+'.join(steps) or 'none'}-{round(1000 * error)}" / f"seed{seed}"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(result))
    history = {"epoch": [1, 2, 3], "test_error": [0.6, np.nan, figures["error"]]}
    pd.DataFrame(history).to_csv(run / "metrics.csv", index=False)
    np.savez_compressed(run / "predictions.npz", logits=logits, labels=labels)
    (run / "classes.txt").write_text("one\ntwo\nthree\n")
    return run


def write_results(folder):
    """A table with runs, one reduced and one duplicate, a study with runs, a record and a benchmark."""
    outputs = folder / "outputs"
    for row, errors in ERRORS.items():
        for seed, error in enumerate(errors):
            run = write_run(outputs, seed, error, steps=STEPS[row], confusion=True)
            add_run(folder / "results" / "some", run, row=row, column="digits", reduced="")
    for error, reduced in ((0.5, "epochs × 0.1"), (0.4, "")):
        run = write_run(outputs, 0, error, steps=["moex"])
        add_run(folder / "results" / "some", run, row="MoEx", column="digits", reduced=reduced)
    for value, error in (("0.5", 0.2), ("0.9", 0.1)):
        for seed in (0, 1):
            run = write_run(outputs / "study", seed, error + 0.01 * seed, steps=["moex"])
            add_run(folder / "results" / "study" / "weight", run, row=value, column="a", reduced="")
    for seed in (0, 1):
        for steps in ([], ["moex"]):
            write_run(outputs / "record", seed, 0.2 + 0.05 * seed + 0.1 * len(steps), steps=steps)
    # All of one recipe and seed has one name in a record.
    for path in (outputs / "record").glob("*"):
        add_runs(folder / "results" / "first", [path])
    (folder / "results" / "benchmark").mkdir()
    (folder / "results" / "benchmark" / "cpu.md").write_text(BENCHMARK)
    return folder / "results"


def find(results, *others):
    tables = {"some": TABLE, "empty": replace(TABLE, title="Nothing yet"), "study/weight": STUDY.table()}
    return find_exhibits(results, tables, {"weight": STUDY}, others)


def build(target, exhibits, results):
    images = [Shown(title, np.random.default_rng(0).random((4, 4))) for title in ("A", "B", "A with B's")]
    exchange = Exchange("digits", "a stem", "64 images", [Pair("Two digits", [images])])
    benchmarks = read_benchmarks(results / "benchmark")
    return build_site(target, exhibits, benchmarks, exchange, command="python scripts/report.py --site x")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def exhibits(results):
    return find(results)


@pytest.fixture(scope="module")
def site(exhibits, results):
    front, *_ = build(results.parent / "site", exhibits, results)
    assert front.name == "index.html"
    return front.parent


def text_of(path):
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", path.read_text()).split())


def test_each_table_is_there_with_how_far_it_is(site):
    front = text_of(site / "index.html")
    assert "some Errors &lt; others 9 of 9 runs, 1 reduced" in front
    assert "empty Nothing yet 0 of 9 runs" in front
    assert "study/weight A study 4 of 6 runs" in front
    assert "first first 4 runs" in front
    assert "Of the cells that the paper reports, 6 of 12 runs are done." in front
    # Where it was measured, too: machines differ.
    assert "with MoEx: +0.8 % (-1.0 to +2.0) time A Processor; commit 0123." in front
    assert {path.name for path in site.glob("*.html")} == {
        *("index.html", "some.html", "empty.html", "study-weight.html", "record-first.html"),
        *("exchange.html", "throughput.html"),
    }


def test_a_table_has_its_numbers_the_mark_and_where_they_are_from(site):
    page = text_of(site / "some.html")
    errors = {
        row: [json.loads((run / "result.json").read_text())["last"]["error"] for run in runs_of(site, row)]
        for row in ERRORS
    }
    means = {row: f"{100 * np.mean(errors[row]):.2f} ± {100 * np.std(errors[row], ddof=1):.2f}" for row in errors}
    test = stats.ttest_rel(errors["MoEx"], errors["plain"])
    low, high = 100 * np.array(test.confidence_interval())
    difference = f"{100 * np.mean(np.subtract(errors['MoEx'], errors['plain'])):+.2f} [{low:+.2f}, {high:+.2f}]"
    assert f"plain 26.00 unconfirmed {means['plain']} {means['plain']} 3" in page
    assert f"MoEx 25.00 {means['MoEx']} {means['MoEx']} 3" in page
    assert f"{difference} {test.pvalue:.3f} (" in page
    assert "a paper unconfirmed" in page
    assert "MoEx digits python train.py seed=2" in page
    assert "1.5 1,234 fp32 A Processor, 2 threads 2.14.1 0123456789 2026-11-24" in page
    assert "Reduced: epochs × 0.1" in page
    assert "Duplicates, in no mean" in page
    # What somebody called a row is no HTML.
    assert "<i>" not in (site / "some.html").read_text()


def runs_of(site, row):
    entries = json.loads((site.parent / "results" / "some" / "cells.json").read_text())
    chosen = [each for each in entries if each["row"] == row and not each["reduced"] and not each["duplicate"]]
    return [site.parent / "results" / "some" / each["run"] for each in chosen]


def test_links_lead_somewhere_and_nothing_comes_from_outside(site):
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    for name, page in pages.items():
        for target in re.findall(r'(?:href|src)="([^"]*)"', page):
            file, _, anchor = target.partition("#")
            if target.startswith("data:"):
                continue
            assert ":" not in target, target
            assert (site / file).exists() if file else anchor, target
            assert not anchor or f'id="{unquote(anchor)}"' in pages[file or name], target
    for path in (site / "site.css", site / "site.js", *(site / "figures").iterdir()):
        # Names of XML's languages are addresses that nobody visits.
        assert not re.search(r"(?:url\(|href=|src=)['\"]?(?:https?:)?//", path.read_text()), path


def test_the_figures_are_there(site):
    kinds = ["errors-digits", "curves-digits", "reliability-digits", "response_rate-digits"]
    wanted = {f"{table}-{kind}" for table in ("some", "some-epochs_0_1") for kind in kinds}
    wanted |= {f"some-confusion-{row}-digits" for row in ("plain", "moex", "moex_i_cutmix_i")}
    wanted |= {
        "study-weight-study",
        "study-weight-curves-a",
        "record-first-curves-first",
        "differences",
        "exchange-1",
    }
    wanted |= {"speed-cpu-moex_in_every_step_resnet-20"}
    assert {path.stem for path in (site / "figures").iterdir()} >= wanted
    for path in (site / "figures").iterdir():
        drawn = path.read_text()
        ElementTree.fromstring(drawn)
        assert "prefers-color-scheme: dark" in drawn
        assert "DejaVu" not in drawn


def test_once_more_it_is_the_same_and_what_is_not_needed_any_more_goes(exhibits, results, tmp_path):
    target, (empty,) = tmp_path / "site", [each for each in exhibits if each.name == "empty"]
    build(target, [empty], results)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    (target / "mine.txt").write_text("mine")
    build(target, [empty], results)
    for path, content in before.items():
        assert path.read_bytes() == content, path
    build(target, [replace(empty, name="other")], results)
    assert not (target / "empty.html").exists()
    assert (target / "other.html").exists()
    assert (target / "mine.txt").read_text() == "mine"
    (target / "empty.html").write_text("mine")
    with pytest.raises(ValueError, match=r"empty.html is no file of the site and stands in the place of one"):
        build(target, [empty], results)
    assert (target / "empty.html").read_text() == "mine"


def test_what_is_no_site_is_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    for name, what in (("folder", "a folder with other files"), ("file", "a file")):
        with pytest.raises(ValueError, match=f"{name} is {what}, and no site that this command made"):
            build(tmp_path / name, [], tmp_path)
    (tmp_path / "folder" / MARK).write_text("{}")
    with pytest.raises(ValueError, match="no site that this command made"):
        build(tmp_path / "folder", [], tmp_path)
    assert (tmp_path / "folder" / "index.html").read_text() == (tmp_path / "file").read_text() == "theirs"


def test_answers(exhibits, site):
    answers = find_answers(exhibits)
    # The same runs once more, in another table, are not another answer.
    assert find_answers([*exhibits, replace(exhibits[0], name="other")]) == answers
    # What is no error does not count: of AURRA, more is better.
    ranked = [replace(exhibit, table=replace(exhibit.table, metrics=["aurra"])) for exhibit in exhibits]
    assert not find_answers(ranked)
    assert [(each.place, each.method, each.baseline, each.pairs) for each in answers] == [
        ("some: digits", "MoEx", "plain", 3),
        ("some: digits", "MoEx & <i>CutMix</i>", "plain", 3),
        ("first", "moex", "none", 2),
    ]
    moex = answers[0]
    ours, theirs = (
        pd.DataFrame([json.loads((run / "result.json").read_text())["last"] for run in runs_of(site, row)])
        for row in ("MoEx", "plain")
    )
    interval = stats.ttest_rel(ours["error"], theirs["error"]).confidence_interval()
    assert (moex.low, moex.high) == pytest.approx([100 * end for end in interval])
    change = 100 * (ours - theirs)["rms_calibration_error"].mean()
    assert moex.calibration == pytest.approx(change)
    assert tabulate_answers(answers)["RMS cal. error, points"][0] == f"{change:+.2f}"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-2.0, -1.0, "lower"),
        (1.0, 2.0, "higher"),
        (-1.0, 2.0, "no clear difference"),
        (np.nan, np.nan, "one seed"),
    ],
)
def test_verdicts(exhibits, low, high, verdict):
    answer = replace(find_answers(exhibits)[0], low=low, high=high)
    assert answer.verdict == verdict
    counts = {"lower": "1 with a lower", "higher": "1 with a higher", "one seed": "; 1 of one seed"}
    assert counts.get(verdict, "1 where the 95 % interval holds zero") in conclude([answer])


def test_what_the_paper_reports(exhibits):
    table = tabulate_reported(exhibits)
    row = ["some: digits", "MoEx", "26.00 (unconfirmed)", "25.00 (unconfirmed)", "-1.00 (unconfirmed)"]
    assert table.to_numpy().tolist() == [row, ["empty: digits", *row[1:]]]
    assert tell_progress(exhibits) == "Of the cells that the paper reports, 6 of 12 runs are done."
    assert conclude([]) == "No run with MoEx stands beside its baseline yet."


def test_runs_from_anywhere_get_a_page(results, tmp_path):
    *_, others = find(results, results.parent / "outputs" / "record")
    assert others.page == "run-1-record.html"
    assert [(row.name, row.against) for row in others.table.rows] == [("none", None), ("moex", "none")]
    # Its folders have the predictions themselves, and the names of the classes.
    assert {tuple(predictions_of(run)["classes"]) for run in others.runs} == {("one", "two", "three")}
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match=r"results holds no finished run: scripts/reproduce.py digits makes some"):
        find(tmp_path / "results")


@pytest.mark.parametrize(
    ("present", "baseline"),
    [
        (["cutmix"], "cutmix"),
        (["cutmix", "cutmix with other settings"], "cutmix (digits-cutmix-100)"),
        (["cutmix with other settings"], "none"),
        ([], "none"),
    ],
    ids=str,
)
def test_runs_with_moex_are_compared_with_the_same_without(tmp_path, present, baseline):
    stacked = {"augmentation.moex.weight": 0.5, "augmentation.shared_permutation": True}
    write_run(tmp_path, 0, 0.3)
    write_run(tmp_path, 0, 0.2, steps=["cutmix", "moex"], settings=stacked)
    if "cutmix" in present:
        write_run(tmp_path, 0, 0.1, steps=["cutmix"])
    if "cutmix with other settings" in present:
        write_run(tmp_path, 0, 0.15, steps=["cutmix"], settings={"augmentation.cutmix.alpha": 0.2})
    (exhibit,) = find_exhibits(tmp_path / "results", {}, {}, [tmp_path])
    against = {row.name: row.against for row in exhibit.table.rows}
    assert against.pop("none") is None
    assert against.pop("cutmix+moex") == baseline
    assert set(against.values()) <= {"none"}


def test_a_benchmark_is_read(results):
    (benchmark,) = read_benchmarks(results / "benchmark")
    (part,) = benchmark.parts
    assert benchmark.provenance == "A Processor; commit 0123. Medians of 3 rounds."
    assert part.ratios == {"without MoEx": (1, 1, 1), "with MoEx": (0.99, 0.98, 1.01)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("pages are looked at in Chromium, which is not installed: apt-get install chromium")
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


LOADED = """
Promise.all(Array.from(document.images, (image) => { image.loading = 'eager'; return image.decode(); })).then(
  () => Array.from(document.images, (image) => [image.getAttribute('src'), image.naturalWidth > 0 && !!image.alt]))
"""
SORTED = """
(() => {
  const table = document.querySelector('table.sortable');
  const headings = Array.from(table.tHead.rows[0].cells);
  const column = headings.findIndex((cell) => cell.textContent === 'best error, %');
  const read = () => Array.from(table.tBodies[0].rows, (row) => parseFloat(row.cells[column].textContent));
  const found = [read()];
  for (const _ of [1, 2]) {
    headings[column].querySelector('button').click();
    found.push(read(), headings[column].getAttribute('aria-sort'));
  }
  return found;
})()
"""


def test_in_a_browser(site, browser):
    for path in sorted(site.glob("*.html")):
        for width in (1280, 768, 390):
            browser.open(path.as_uri(), width=width, dark=width == 768)
            room = browser.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert room == [width, width], path
        shown = dict(browser.evaluate(LOADED))
        assert all(shown.values())
        assert set(shown) == set(re.findall(r'<img src="([^"]*)"', path.read_text())), path
        count = browser.evaluate("document.querySelectorAll('table').length")
        assert count == path.read_text().count("<table"), path
    assert browser.complaints == []


def test_a_press_on_a_heading_sorts(site, browser):
    browser.open((site / "some.html").as_uri(), width=1280)
    written, rising, up, falling, down = browser.evaluate(SORTED)
    assert (rising, up) == (sorted(written), "ascending")
    assert (falling, down) == (sorted(written, reverse=True), "descending")
    assert written != rising


def test_a_count_leads_to_its_runs(site, browser):
    browser.open((site / "some.html").as_uri(), width=390)
    link = re.findall(r'href="(#runs-[^"]*)"', (site / "some.html").read_text())[1]
    hidden = "document.querySelector('tr[id]').closest('details').open"
    assert browser.evaluate(hidden) is False
    browser.evaluate(f"document.querySelector('a[href=\"{link}\"]').click()")
    assert browser.evaluate(f"new Promise((done) => setTimeout(() => done({hidden}), 100))") is True
    assert Path(browser.evaluate("location.pathname")).name == "some.html"


def test_colours_follow_the_reader(site, browser):
    found = []
    for dark in (False, True):
        browser.open((site / "index.html").as_uri(), width=768, dark=dark)
        found.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert found == ["rgb(255, 255, 255)", "rgb(21, 24, 27)"]
