"""The page in a real browser: keyboard, sorting, contrast, widths, and no request at all."""

import dataclasses

import pytest
from sounding import melody, written

from keras_transfer.runs.report import write_report

from . import browser, saved

pytestmark = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is installed")

SIZES = [(390, False), (390, True), (1280, False), (1280, True)]

# For every text of the page: its contrast with the ground behind it, and whether it is large.
CONTRAST = """
(() => {
  const parse = (c) => {
    const n = (c.match(/[\\d.]+/g) || []).map(Number);
    return n.length < 3 ? [0, 0, 0, 0] : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (top, low) => top.slice(0, 3).map((v, i) => v * top[3] + low[i] * (1 - top[3]));
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((low, top) => over(top, low), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || ["script", "style"].includes(e.localName)) continue;
    const style = getComputedStyle(e);
    const back = ground(e);
    const ink = over(parse(e.closest("svg") ? style.fill : style.color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = +style.fontWeight >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) found.push(node.data.trim().slice(0, 40) + " " + ratio.toFixed(2));
  }
  return found;
})()
"""


LETTERS = """
[...document.querySelectorAll("figure svg")].map((svg) => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const size = (text) => parseFloat(getComputedStyle(text).fontSize);
  return scale * Math.min(...[...svg.querySelectorAll("text, tspan")].map(size));
})
"""
"""Of each plot the size of its smallest letters on the screen."""


@pytest.fixture(scope="module")
def page():
    with browser.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    run = saved.save(tmp_path_factory.mktemp("browser") / "run", saved.ODD_NAMES, 90)
    # A class that is never predicted has no precision: its cell is empty.
    row = run.metrics["test"]["per_class"][2]
    row.update(precision=None, precision_interval=None)
    return write_report(run)


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_the_page_reads_well(page, report, width, dark):
    page.requests.clear()
    page.open(report, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(CONTRAST) == []
    letters = page.run(LETTERS)
    assert len(letters) == 2
    assert min(letters) >= 11
    outside = [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert page.errors == []
    assert page.run("window.hacked") is None
    background = page.run("getComputedStyle(document.documentElement).backgroundColor")
    assert background == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_every_picture_has_a_name(page, report):
    page.open(report)
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    pictures = [n for n in tree if n.get("role", {}).get("value") in ("image", "img")]
    assert len(pictures) > 10
    assert all(node.get("name", {}).get("value") for node in pictures)


def column(page, index):
    return page.run(
        f"[...document.querySelector('#per-class').tBodies[0].rows]"
        f".map(r => r.cells[{index}].dataset.value ?? r.cells[{index}].textContent)"
    )


def focused(page):
    return page.run("document.activeElement.textContent.trim()")


def test_the_table_sorts_by_keyboard(page, report):
    page.open(report)
    page.run("document.querySelector('[aria-label=\"Results by class\"]').focus()")
    page.press("Tab")
    assert focused(page) == "Class"
    for _ in range(3):
        page.press("Tab")
    assert focused(page) == "Precision"
    page.press("Enter")
    ascending = [float(value) for value in column(page, 3)[:-1]]
    assert ascending == sorted(ascending)
    assert column(page, 3)[-1] == ""
    page.press("Enter")
    assert [float(value) for value in column(page, 3)[:-1]] == ascending[::-1]
    assert column(page, 3)[-1] == ""
    headings = "document.querySelector('#per-class').tHead.rows[0].cells"
    sort = page.run(f"[...{headings}].map(c => c.getAttribute('aria-sort'))")
    assert sort == [None, None, None, "descending", None, None]
    page.run(f"{headings}[0].firstElementChild.click()")
    assert len(set(column(page, 0))) == len(saved.ODD_NAMES)
    by_name = page.run(f"{headings}[0].getAttribute('aria-sort')")
    assert by_name == "ascending"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page, report):
    page.open(report)
    page.press("Tab")
    assert focused(page) == "Skip to the results"
    reached, unseen = [], []
    for _ in range(60):
        page.press("Tab")
        if page.run("document.activeElement === document.body"):
            break
        reached.append(page.run("document.activeElement.tagName"))
        if page.run("getComputedStyle(document.activeElement).outlineStyle") == "none":
            unseen.append(focused(page))
    assert unseen == []
    assert reached.count("BUTTON") == 6
    assert reached.count("A") >= 6
    assert reached.count("SUMMARY") >= 3
    hidden = page.run(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 &&"
        " ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
    )
    assert hidden == 0


def test_the_skip_link_leads_to_the_results(page, report):
    page.open(report, height=400)
    page.press("Tab")
    page.press("Enter")
    assert page.run("location.hash") == "#main"


LENGTHS = """
Promise.all([...document.querySelectorAll("audio")].map((player) => new Promise((done) => {
  player.onloadedmetadata = () => done(player.duration);
  player.onerror = () => done(player.error.message);
  player.load();
})))
"""


def test_clips_can_be_heard(page, tmp_path):
    """Of 0.5, 0.6 and 0.7 s."""
    run = saved.save(tmp_path / "run", ("a", "b", "c"), 60, names=[f"{i}.wav" for i in range(60)])
    clips = [written(melody(i, 0.5 + i % 3 / 10)) for i in range(60)]
    data = dataclasses.replace(
        run.pictures, examples=None, read=clips.__getitem__, modality="audio", findings=()
    )
    run = dataclasses.replace(run, config={**run.config, "modality": "audio"}, pictures=data)
    page.errors.clear()
    page.open(write_report(run))
    assert page.errors == []
    heard = page.run(LENGTHS)
    assert len(heard) > 8
    assert {round(one, 1) for one in heard} == {0.5, 0.6, 0.7}
