from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import zoo
from rich.console import Console
from zoo import fill

from keras_transfer.base.errors import DataError, UsageError
from keras_transfer.datasets import inspect, load_dataset, natural_sizes
from keras_transfer.datasets.inspection import expected_accuracy


@pytest.fixture(scope="module")
def menagerie(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo") / "data"
    return root, zoo.build(root)


def test_every_kind_in_the_zoo_ends_as_an_image_or_a_finding(menagerie, recwarn):
    root, expected = menagerie
    assert len(natural_sizes(root, at_most=100)) > 50
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    inspection = inspect(root)
    assert len(expected) >= 80
    found: dict[str, set[str]] = {}
    for finding in inspection.findings:
        found.setdefault(finding.path, set()).add(finding.kind)
    wrong = {
        path: (outcome, found.get(path))
        for path, outcome in expected.items()
        if not outcome & ({"image"} if path in inspection.dataset.paths else found.get(path, set()))
    }
    assert wrong == {}
    assert inspection.problem is None
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    assert not recwarn.list


def test_the_zoo_can_be_trained_on_and_its_losses_counted(menagerie):
    root, expected = menagerie
    data = load_dataset(root, image_size=32)
    assert data.class_names == ("china", "flower")
    lost = {one.path for one in data.findings if one.path and one.action == "left out"}
    assert inspect(root).left_out == len(lost)
    assert len(lost) == sum(path not in data.paths for path in expected)


def test_json_says_everything_in_plain_values(menagerie):
    facts = json.loads(json.dumps(inspect(menagerie[0]).to_json()))
    assert facts["images"] == sum(row["images"] for row in facts["classes"])
    assert facts["images"] == sum(facts["splits"].values()) == sum(facts["formats"].values())
    assert facts["images"] == sum(row["images"] for row in facts["sizes"])
    assert facts["trainable"] is True
    assert sum(facts["finding_counts"].values()) == len(facts["findings"])
    assert facts["findings"][0].keys() == {"path", "kind", "reason", "action", "other"}


def test_terminal_shows_classes_findings_and_interval(menagerie):
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=False).print(inspect(menagerie[0]).render())
    text = stream.getvalue()
    for word in ("china", "flower", "Truncated files", "95 % interval", "Left out: 5"):
        assert word in text
    assert "\n\nline" not in text


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images = 0
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href") if values.get(name)]
        self.images += tag == "img"
        assert tag != "img" or values.get("alt")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_nothing_of_the_network(menagerie, tmp_path):
    inspection = inspect(menagerie[0])
    inspection.write_page(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.images >= 24
    assert all(link.startswith("data:image/webp;base64,") for link in page.links)
    assert "url(" not in text
    assert "flower/cut-3.jpg" in text
    assert "truncated" in text


def test_names_cannot_inject_markup(tmp_path, pictures):
    fill(tmp_path, {"<script>alert(1)<": 12, "b": 12}, pictures)
    inspection = inspect(tmp_path)
    inspection.write_page(tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_an_unusable_set_is_inspected_all_the_same(tmp_path, pictures):
    inspection = inspect(fill(tmp_path, {"cat": 5}, pictures))
    assert "single class 'cat'" in inspection.problem.message
    assert inspection.to_json()["trainable"] is False
    inspection.write_page(tmp_path / "page.html")
    assert "cannot be trained on" in (tmp_path / "page.html").read_text()
    Console(file=io.StringIO()).print(inspection.render())
    with pytest.raises(DataError):
        inspect(tmp_path / "nowhere")


def test_only_harmless_kinds_pass_the_strict_check(tmp_path, pictures):
    fill(tmp_path, {"train/cat": 12, "train/dog": 12, "test/cat": 3, "test/dog": 3}, pictures)
    (tmp_path / "train/cat/.hidden").write_text("")
    assert {one.kind for one in inspect(tmp_path).findings} == {"hidden", "split_off"}
    assert inspect(tmp_path).problems == ()
    (tmp_path / "train/cat/bad.jpg").write_text("")
    assert [one.path for one in inspect(tmp_path).problems] == ["train/cat/bad.jpg"]


def test_a_fixed_manifest_has_no_problems_and_the_originals_are_untouched(menagerie, tmp_path):
    root, _ = menagerie
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    inspection = inspect(root)
    manifest = inspection.fix(tmp_path / "clean")
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    clean = inspect(manifest)
    kinds = {one.kind for one in clean.findings}
    assert kinds <= {"misnamed", "near_duplicate", "grouped"}
    assert clean.left_out == 0
    assert set(clean.dataset.digests) == set(inspection.dataset.digests)
    assert len(set(clean.dataset.digests)) == len(clean.dataset)
    with open(tmp_path / "clean/left_out.csv", newline="") as stream:
        left_out = {row["path"]: row["kind"] for row in csv.DictReader(stream)}
    assert left_out["flower/login.jpg"] == "not_an_image"
    assert left_out["flower/twice-2.png"] == "duplicate"


def test_fix_keeps_given_splits_and_writes_what_is_not_on_disk(tmp_path):
    images = zoo.noise(40)
    data = {"train": (images[:30], [0, 1] * 15), "test": (images[30:], [0, 1] * 5)}
    manifest = inspect(data).fix(tmp_path / "clean")
    again = load_dataset(manifest)
    assert len(again) == 40
    assert len(again.indices("test")) == 10
    assert again.class_names == ("0", "1")


def test_fix_never_overwrites(tmp_path, pictures):
    inspection = inspect(fill(tmp_path / "set", {"cat": 9, "dog": 9}, pictures))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="full exists"):
        inspection.fix(tmp_path / "full")
    with pytest.raises(UsageError, match="inside the data"):
        inspection.fix(tmp_path / "set/clean")
    (tmp_path / "bare").mkdir()
    assert inspection.fix(tmp_path / "bare").is_file()
    assert (tmp_path / "full/mine.txt").read_text() == "precious"


@pytest.mark.parametrize("images", [1, 10, 285, 10_000])
def test_expected_interval_solves_its_equation(images):
    interval = expected_accuracy(images)
    for bound in (interval["low"], interval["high"]):
        deviation = abs(0.9 - bound) / math.sqrt(bound * (1 - bound) / images)
        assert deviation == pytest.approx(1.96, rel=0.05)


def test_inspection_stays_quiet_and_light(tmp_path, pictures):
    fill(tmp_path, {"cat": 9, "dog": 9}, pictures)
    code = (
        "import sys; from keras_transfer.datasets import inspect; "
        f"print(inspect({str(tmp_path)!r}, cache=False)); "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"Inspection\(.*18 images, 2 classes.*\)\n", done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize(("broken", "shown"), [(30, 30), (45, 40)])
def test_findings_of_a_kind_are_shown_whatever_the_size_of_a_class(
    tmp_path, pictures, broken, shown
):
    fill(tmp_path / "set", {"cat": 5, "dog": 5}, pictures)
    for i in range(broken):
        (tmp_path / f"set/cat/empty-{i:02d}.jpg").write_bytes(b"")
    inspect(tmp_path / "set").write_page(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<b>cat/empty-") == shown
    assert ("and 5 more" in page) == (broken > shown)
