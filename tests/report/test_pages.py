"""Reports: what they say, that they say it whatever is absent, and that nothing from outside becomes markup."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import cli
from compress.artifact.verify import verify
from compress.core.errors import ArtifactError, CompressError, ConfigError
from compress.report.artifact_page import artifact_page
from compress.report.html import policy, render, style_sheet
from compress.report.page import Cell, Note, Page, Table, section
from compress.report.sources import Facts, make_sources, read_training
from compress.report.why import explain
from compress.report.write import front_page_of, page_of, renew_report, report_text
from support.made_up import FACTS, PLAN, PROFILE, SPENT, SWEEP, TRADE_OFF, VALIDATION, estimated, write_made_up

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Outline(HTMLParser):
    """What a page consists of, as a browser would take it; elements that do not nest fail."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, *names: str) -> list[tuple[str, dict[str, str | None]]]:
        return [(tag, attributes) for tag, attributes in self.tags if tag in names]


def page(**changes: Any) -> Page:
    parts: dict[str, Any] = {
        "plan": PLAN,
        "profile": PROFILE,
        "validation": VALIDATION,
        "manifest": {**FACTS, "versions": {"compress": "0.1.0", "torch": "2.13.0"}},
        "trade_off": TRADE_OFF,
    }
    return artifact_page(make_sources(**{**parts, **changes}))


def check(text: str) -> Outline:
    """What holds for every page: self-contained, accessible, nothing but known elements."""
    found = Outline(text)
    assert text.startswith("<!doctype html>")
    assert not found.named("script", "iframe", "object", "embed", "link", "form", "img", "base")
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert all(
            (value or "").startswith("#") for name, value in attributes.items() if name in ("href", "src", "xlink:href")
        )
    # No address of another place, not even in the style sheet.
    assert not re.search(r"url\(|@import|https?://", text)
    assert found.named("html")[0][1]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in found.named("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    for _, attributes in found.named("a"):
        assert (attributes["href"] or "")[1:] in ids
    assert len(found.named("caption")) == len(found.named("table"))
    assert all(attributes.get("scope") in ("col", "row") for _, attributes in found.named("th"))
    assert all(
        attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        for _, attributes in found.named("svg")
    )
    content = next(a["content"] for _, a in found.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None and content == policy(style[1]) and content.startswith("default-src 'none'")
    return found


def test_the_report_says_what_is_known() -> None:
    found = check(render(page()))
    for words in (
        "minilm, compressed",
        "Pass: the budget is met",
        "speed-up 2.083 (95 % interval 2.010 to 2.130), budget 2",
        "2.08× asked 2×; 95 % interval 2.01 to 2.13",
        "4.80 ms dense 10.00 ms",
        "0.8900 dense 0.9000; change −0.0100",
        "60.0 MB dense 90.9 MB; 1.5× smaller",
        "872 examples",
        "by at most 2.7e-06",
        "Kept in float32: layer.2",
        "6 of 12 kept",  # heads
        "23 of 60 kept",  # filters
        "Why: fp32: keeps 50% of the MACs",
        # Headings in the order of the cells below them.
        "candidate outcome heads filters MACs measured predicted speed-up metric size",
        "int8 dynamic not finished: keeps less 12 of 12 56 of 60 90.0 %",
        "positive 444 0.9000 0.8900 0.8500 to 0.9300 −0.0100 −0.0300 to +0.0100",
        "median error of 2.6%",
        "1 min",
        "command line",
        "compress.toml",
        "compress run path/to/minilm --speedup 2",
        "Taken from what earlier runs had stored: profile (m, fp32, 45.0 s then).",
        "a" * 64,
        "2.13.0",
    ):
        assert words in found.text.replace("60.8 s", "1 min"), words
    titles = [a["id"] for t, a in found.named("h2")]
    assert titles == [
        f"{name}-heading"
        for name in (
            *("result", "kept", "slices", "candidates", "budgets", "latency", "stages"),
            *("provenance", "configuration"),
        )
    ]


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("pass", "Pass: the budget is met"), ("fail", "Fail: the budget is not met"), ("inconclusive", "Inconclusive:")],
)
def test_the_verdict_is_in_words_and_in_form(verdict: str, words: str) -> None:
    text = render(page(validation={**VALIDATION, "verdict": verdict}))
    assert words in check(text).text
    signs = {v: render(page(validation={**VALIDATION, "verdict": v})) for v in ("pass", "fail", "inconclusive")}
    shapes = {re.search(r'<svg class="sign".*?</svg>', text, re.DOTALL)[0] for text in signs.values()}  # type: ignore[index]
    assert len(shapes) == 3


def test_estimates_are_said_to_be() -> None:
    plan, profile = replace(PLAN, latency_source="estimated"), replace(PROFILE, source="estimated", points=(), check=())
    found = check(render(page(plan=plan, profile=profile, validation=estimated())))
    assert "Inconclusive: not measured on the device yet" in found.text
    assert "Latencies and speed-up on this page are estimated from a data sheet" in found.text
    assert "Speed-up, estimated 2.04×" in found.text and "Latency, estimated 4.90 ms dense 10.00 ms" in found.text
    assert "no latency here was measured" in found.text and "table, estimated" in found.text
    predicted = check(render(page(validation=estimated())))
    assert "are predicted, not timed" in predicted.text and "data sheet" not in predicted.text


def test_without_validation_and_profile_there_is_still_a_page() -> None:
    found = check(render(page(validation=None, profile=None, trade_off=None, manifest={})))
    assert "Not measured: this artifact was exported" in found.text
    assert [a["id"] for _, a in found.named("h2")] == ["result-heading", "kept-heading"]


LOG = """phase,step,loss,labels,divergence,budget,cost,held_out
structure,10,0.9,0.9,,8.0,7.5,0.8
structure,20,0.7,0.7,,5.0,4.9,0.6
weights,5,0.5,,,,,0.55
weights,10,0.4,,,,,inf
"""


def test_training_has_curves_of_losses_and_of_the_budget(tmp_path: Path) -> None:
    out = write_made_up(tmp_path / "out")
    (out / "training.csv").write_text(LOG)
    text = render(page_of([out]))
    found = check(text)
    assert (
        "30 steps: structure from step 1; weights from step 21. Loss on examples held out: 0.8 first, 0.55 last" in text
    )
    assert "Cost of what was left (milliseconds, predicted): 7.5 first, 4.9 last." in found.text
    for words in ("training examples", "examples held out", "weights 10 0.4000 – – –"):
        assert words in found.text
    pictures = re.findall(r'<svg[^>]*aria-labelledby="training-.*?</svg>', text, re.DOTALL)
    # Two lines a phase for losses; one for the structure and one for its budget. A loss that is no number is no point.
    assert [picture.count("<polyline") for picture in pictures] == [4, 2]
    assert [picture.count("stroke-dasharray") for picture in pictures] == [3, 2]
    assert len(re.findall(r"<polyline points=\"([^\"]*)\"", pictures[0])[-1].split()) == 1
    # Written with the artifact, the section is what `compress report` makes of its files.
    same = page(training=read_training(out / "training.csv"))
    assert next(part for part in same.sections if part.name == "training").blocks
    assert not next(part for part in page().sections if part.name == "training").blocks


@pytest.mark.parametrize("damage", ["a,b\n1,2\n", "phase,step,loss\nweights,soon,1\n", "phase,step\n,1\n"])
def test_a_damaged_log_is_named_or_left_out(tmp_path: Path, damage: str) -> None:
    out = write_made_up(tmp_path / "out")
    (out / "training.csv").write_text(damage)
    with pytest.raises(ArtifactError, match=r"training\.csv' is not a log of a training"):
        page_of([out])
    renew_report(out)
    assert "training.csv is left out of this report" in check((out / "report.html").read_text()).text


def test_phases_named_by_others_are_only_text(tmp_path: Path) -> None:
    out = write_made_up(tmp_path / "out")
    (out / "training.csv").write_text(
        'phase,step,loss,held_out,budget,cost\n"<script>x</script>",1,1e308,-1e308,3,1e29\n'
    )
    assert "<script" not in render(page_of([out]))


def test_the_parts_of_stages_are_shown_with_their_cores() -> None:
    shown = page(manifest={**FACTS, "spent": SPENT})
    found = check(render(shown))
    table = next(t for s in shown.document()["sections"] if s["name"] == "stages" for t in s["tables"])  # type: ignore[attr-defined]
    assert [row[:1] + row[2:] for row in table["rows"]] == [
        ["load", "3.5 s", "1.00 (50 %)"],
        ["profile (stored, took 45.0 s then)", "0.5 s", "1.00 (50 %)"],
        ["search", "40.0 s", "1.50 (75 %)"],
        ["· try-out", "22.0 s", "1.80 (90 %)"],
        ["· · sketch", "21.5 s", "1.90 (95 %)"],
        ["· check (2 of 3 stored, took 9.0 s then)", "8.0 s", "1.00 (50 %)"],
        ["· everything else", "10.0 s", "–"],
    ]
    for words in (
        "Where the time of the run went",
        "44.0 s in all, stages in order.",
        "The largest parts: 67 % of the run.",
        "On average 1.5 of 2 cores were busy with this run (73 %)",
        "Taken from what earlier runs had stored: profile (m, fp32, 45.0 s then).",
    ):
        assert words in found.text, words
    # An artifact of an earlier version has its seconds per stage, as before.
    assert "Where the run's time went" in check(render(page())).text


@settings(max_examples=15)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(list(SPENT["parts"][1])),
            st.sampled_from([None, -1, 0, 2.5, "load", [], ["a"], ["a", EVIL], [{}], True, {}, "x" * 999]),
        ),
        max_size=8,
    ),
    st.sampled_from([None, 0, -1, 2, "two"]),
)
def test_whatever_is_said_of_the_time_there_is_a_page(parts: list[dict[str, Any]], cores: Any) -> None:
    check(render(page(manifest={**FACTS, "spent": {"cores": cores, "parts": [*SPENT["parts"][3:], *parts]}})))


def test_nothing_from_outside_becomes_markup() -> None:
    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spoilt(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [spoilt(inner) for inner in value]
        return value + EVIL if isinstance(value, str) and value not in ("pass", "chosen") else value

    facts = spoilt({**FACTS, "versions": {"compress": "0.1.0"}})
    facts["configuration"][EVIL] = EVIL
    facts["seconds"][EVIL] = 3.0
    profile = replace(PROFILE, device={"processor": EVIL, "threads": 2}, target=EVIL, date=EVIL)
    validation = spoilt(VALIDATION)
    validation["metric"]["also"] = {EVIL: {"dense": 1.0, "compressed": 0.5}}
    for text in (
        render(page(manifest=facts, validation=validation, profile=profile)),
        render(front_page_of(spoilt(SWEEP))),
    ):
        found = check(text)
        assert "alert(1)" in found.text
        assert "<script" not in text and "<img" not in text
    # A name that turns the text after it around, or hides in it, is seen as what it is.
    assert "\u202e" not in render(page(manifest={**FACTS, "model": {"name": "evil\u202egpj.exe\u0007"}}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*VALIDATION, "value", "rows", "dense", "ci95"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(list(VALIDATION)), json_values),
    st.dictionaries(st.sampled_from(list(FACTS)), json_values),
)
def test_whatever_the_files_hold_there_is_a_page(validation: dict[str, Any], facts: dict[str, Any]) -> None:
    check(render(page(validation={**VALIDATION, **validation}, manifest={**FACTS, **facts})))
    check(render(front_page_of({**SWEEP, **validation, "provenance": facts})))


@given(json_values, st.lists(st.sampled_from([*VALIDATION, "value", "rows"]), max_size=3))
def test_facts_never_raise(document: Any, keys: list[str]) -> None:
    facts = Facts(document)
    number, bounds = facts.number(*keys), facts.interval(*keys)
    assert number is None or isinstance(number, float)
    assert bounds is None or len(bounds) == 2
    assert facts.text(*keys) is None or facts.text(*keys)
    assert all(isinstance(inner.document, dict) for inner in facts.each(*keys))
    facts.numbers(*keys), facts.items(*keys), facts.under(*keys)


def test_a_table_has_cells_for_all_its_columns() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", ("a", "b"), ((Cell("1"),),))
    table = Table("t", ("a",), ())
    assert section("s", "S", table, [Note("n")], []).blocks == (table, Note("n"))


def test_the_report_of_an_artifact_is_made_again_as_it_was(tmp_path: Path) -> None:
    out = write_made_up(tmp_path / "out")
    renew_report(out)
    text = (out / "report.html").read_text()
    assert verify(out).findings == ()
    manifest = json.loads((out / "manifest.json").read_text())
    assert text == report_text(
        plan=PLAN, profile=PROFILE, validation=VALIDATION, manifest=manifest, trade_off=TRADE_OFF
    )
    renew_report(out)
    assert (out / "report.html").read_text() == text


def test_a_report_on_a_changed_model_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_made_up(tmp_path / "out")
    renew_report(out)
    assert "not as it was written" not in (out / "report.html").read_text()
    (out / "model.onnx").write_bytes(b"another model")
    assert cli.main(["report", str(out)]) == 0
    said = "is not as it was written: model.onnx (changed). What was measured on it does not hold"
    assert said in check((out / "report.html").read_text()).text
    assert said in capsys.readouterr().err
    reasons = explain(out)
    assert said in reasons["damage"]
    assert cli.main(["why", str(out)]) == 0 and said in capsys.readouterr().err


def test_what_another_millisecond_would_bring_is_compared_with_the_plan(tmp_path: Path) -> None:
    reasons = explain(write_made_up(tmp_path / "out"))
    assert "damage" not in reasons
    for text in (*reasons["one_more_ms"], *reasons["one_less_ms"]):
        assert f"instead of {PLAN.macs_fraction:.1%}" in text
    assert reasons["one_more_ms"] and reasons["one_less_ms"]


def test_a_damaged_file_is_named_or_left_out(tmp_path: Path) -> None:
    out = write_made_up(tmp_path / "out")
    (out / "profile.json").write_text("{")
    with pytest.raises(CompressError, match=r"profile\.json"):
        page_of([out])
    renew_report(out)
    assert "profile.json is left out of this report" in check((out / "report.html").read_text()).text
    # That damage stays visible to those who verify.
    assert [finding.file for finding in verify(out).findings] == ["profile.json"]
    (out / "profile.json").write_text(PROFILE.to_json())
    (out / "validation.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"cannot read '.*validation\.json'"):
        page_of([out])


def test_artifacts_side_by_side(tmp_path: Path) -> None:
    one = write_made_up(tmp_path / "one")
    other = write_made_up(tmp_path / "other", validation={**VALIDATION, "verdict": "fail"})
    found = check(render(page_of([one, other])))
    assert "2 artifacts compared" in found.text and "A: one" in found.text and "B: other" in found.text
    assert "verdict pass fail" in found.text and "cannot be compared" not in found.text

    elsewhere = {**VALIDATION, "deployment": {**VALIDATION["deployment"], "device": {"processor": "another"}}}
    third = write_made_up(tmp_path / "third", validation=elsewhere)
    assert (
        "Latencies cannot be compared: the artifacts were measured on different devices"
        in check(render(page_of([one, third]))).text
    )
    facts = {**FACTS, "data": {**FACTS["data"], "evaluation": {"examples": 9, "sha256": "d" * 64}}}
    fourth = write_made_up(tmp_path / "fourth", facts=facts)
    assert "evaluated with different evaluation data" in check(render(page_of([one, fourth]))).text
    fifth = write_made_up(tmp_path / "fifth", validation=None, profile=None)
    assert "not measured" in check(render(page_of([one, fifth]))).text


def test_a_sweep_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(SWEEP))
    found = check(render(page_of([tmp_path / "sweep"])))
    assert "minilm: accuracy against latency" in found.text
    assert "Fastest within the dense model's interval 2.00× accuracy 0.8800" in found.text
    assert "refused: loses too much" in found.text and found.text.count(" yes ") == 3
    with pytest.raises(ConfigError, match="is a sweep"):
        page_of([tmp_path / "sweep", tmp_path / "sweep"])
    # Older ones say less.
    check(render(front_page_of({"metric": "accuracy", "points": SWEEP["points"]})))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_made_up(Path("one"))
    write_made_up(Path("two"))
    assert cli.main(["report", "one"]) == 0 and capsys.readouterr().out == "report: one/report.html\n"
    assert verify("one").findings == ()
    assert cli.main(["report", "one", "two"]) == 0 and capsys.readouterr().out == "report: report.html\n"
    assert "2 artifacts compared" in Path("report.html").read_text()
    assert cli.main(["report", "one", "--output", "page.html"]) == 0
    assert Path("page.html").read_text() == Path("one/report.html").read_text()
    capsys.readouterr()
    assert cli.main(["report", "two", "--json"]) == 0 and not Path("two/report.html").exists()
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "pass" and document["sections"][0]["name"] == "result"
    assert cli.main(["report", "one", "--output", "no/such/place.html"]) == 3
    assert "cannot write 'no/such/place.html'" in capsys.readouterr().err
    assert cli.main(["report", "absent"]) == 3 and "'absent'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.partial"))


def test_the_style_sheet_is_the_same_for_all() -> None:
    assert style_sheet() == style_sheet() and "</style" not in style_sheet()
