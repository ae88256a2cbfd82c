import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from adhere.errors import RunFolderError
from adhere.report.html import write_report


class Page(HTMLParser):
    """The text a reader sees, the tables, and every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.tables, self._inside = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "link", "br", "img", "input"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.text += data
            if {"th", "td"} & set(self._inside):
                self.tables[-1][-1][-1] += " " + " ".join(data.split())


def test_the_report_shows_headline_table_and_sections(make_run):
    folder = make_run()
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "the model violates it in 11.8\N{NO-BREAK SPACE}%" in page.text
    rows = [[cell.strip() for cell in row] for row in page.tables[0]]
    assert rows[0][:3] == ["model", "violations lower is better", "violations, second judge lower is better"]
    assert [row[:2] for row in rows[1:]] == [
        ["before fine-tuning", "6.0 % 4.1 to 8.8"],
        ["plain fine-tuning", "68.8 % 64.1 to 73.1"],
        ["constrained fine-tuning", "11.8 % 9.0 to 15.3"],
        ["constrained ÷ plain", "0.172 × 0.129 to 0.224"],
    ]
    for told in (
        "adhere demo --seed 0",
        "learning_rate: 5.0e-05",
        "2.13.0",
        "x86_64, 2 cores",
        "jigsaw-bilstm",
        "Seeds: 0",
    ):
        assert told in page.text
    assert "1 of 3 entries of events.jsonl" in page.text


def test_several_constraints_have_columns_and_curves_of_their_own(make_run):
    html = write_report(make_run(("clean", "no addresses"))).read_text(encoding="utf-8")
    header = [cell.strip() for cell in Page(html).tables[0][0]]
    assert header[1:3] == ["violations · clean lower is better", "violations · no addresses lower is better"]
    plots = {key: json.loads(spec) for key, spec in re.findall(r'data-plot="plot-(\w+)">(.*?)</script>', html)}
    assert list(plots) == ["violations", "loss", "kl", "satisfaction", "quality"]
    assert [line["name"] for line in plots["kl"]["data"]] == ["constraint clean", "constraint no addresses"]


def test_the_page_is_complete_in_itself(make_run):
    page = Page(write_report(make_run()).read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "action", "background"} & set(attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert any(tag == "script" for tag, _ in page.elements)


def test_the_page_runs_its_own_scripts_and_no_others(make_run):
    html = write_report(make_run()).read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = ["sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert len(scripts) == 2 and sorted(digests) == sorted(re.findall(r"'(sha256-[^']+)'", policy))


def test_text_that_a_model_wrote_stays_text(make_run):
    folder = make_run()
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    lines = [{"prompt_index": 0, "prompt": evil, "output": evil, "verdicts": {evil: 0.0}, "judge": {evil: 0.0}}]
    (folder / "evaluation" / "constrained.samples.jsonl").write_text(json.dumps(lines[0]))
    (folder / "evaluation" / "tokens.json").write_text(
        json.dumps([{"prompt": evil, "tokens": [evil], "satisfaction": [0.1], "model": evil, "masked_words": [evil]}])
    )
    (folder / "recipe.yaml").write_text(evil)
    (folder / "manifest.json").write_text(json.dumps({"command": evil, "versions": {evil: evil}}))
    (folder / "log_history.json").write_text(json.dumps([{"step": 1, f"kl/{evil}": 0.1, f"satisfaction/{evil}": 0.5}]))
    rows = [{"name": "violation_rate", "value": 0.5, "model": evil, "constraint": c} for c in (evil, "b")]
    (folder / "summary.json").write_text(json.dumps({"rows": rows, evil: evil}))
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert "alert(1)" in page.text
    assert "<script>alert" not in html and "onerror" not in str([attributes.keys() for _, attributes in page.elements])
    assert len([tag for tag, attributes in page.elements if tag == "script" and "data-plot" not in attributes]) == 2
    assert not any(tag == "img" for tag, _ in page.elements)


def test_profane_words_are_not_in_what_a_reader_sees(make_run):
    page = Page(write_report(make_run()).read_text(encoding="utf-8"))
    assert not re.search(r"shit|fuck|damn", page.text, re.IGNORECASE)
    assert "d•••" in page.text and "b•••" in page.text
    hidden = [attributes["data-word"] for _, attributes in page.elements if attributes.get("class") == "masked"]
    assert "damn" in hidden


def test_tokens_carry_their_value_as_colour_underline_and_tooltip(make_run):
    page = Page(write_report(make_run()).read_text(encoding="utf-8"))
    tokens = [attributes for _, attributes in page.elements if str(attributes.get("title", "")).startswith("R = ")]
    assert len(tokens) == 17
    assert tokens[0] == {"class": "token", "style": "--r: 0.930", "title": "R = 0.930"}
    assert tokens[5] == {"class": "token low", "style": "--r: 0.004", "title": "R = 0.004"}


def test_tables_and_figures_can_be_read_without_eyes(make_run):
    page = Page(write_report(make_run()).read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes.get("scope") in ("col", "row")
        if attributes.get("class") == "canvas":
            assert attributes["role"] == "img" and len(attributes["aria-label"]) > 30
    assert len([tag for tag, _ in page.elements if tag == "caption"]) == len(page.tables)
    assert ("html", {"lang": "en"}) in page.elements


def test_a_run_without_evaluation_still_gives_a_report(tmp_path):
    (tmp_path / "recipe.yaml").write_text("method: constrained\n")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    for sentence in (
        "This run has not been evaluated yet",
        "No evaluation is in this run folder",
        "No training log is in this run folder",
        "No evaluated samples are in this run folder",
        "No outputs with token values",
        "Nothing has been measured yet",
        "No manifest is in this run folder",
    ):
        assert sentence in page.text
    assert page.tables == []
    assert len(html) < 50_000  # no figure, so no figure library either


def test_each_missing_file_costs_only_its_own_part(make_run):
    folder = make_run()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        assert "adhere · report" in write_report(folder).read_text(encoding="utf-8")
        path.write_bytes(content)


def test_a_run_without_a_second_judge_says_so(make_run):
    folder = make_run()
    for path in (folder / "evaluation").glob("*.samples.jsonl"):
        path.write_text(
            json.dumps({"prompt_index": 0, "prompt": "p", "output": "o", "verdicts": {"clean": 1.0}}) + "\n"
        )
    assert "No second judge is named in this run" in Page(write_report(folder).read_text(encoding="utf-8")).text


def test_events_are_told_in_order_and_the_batches_of_a_part_in_one_line(make_run):
    folder = make_run()
    events = [{"event": "sampled", "step": 0, "time": 10.0 + batch, "batch": batch} for batch in range(500)]
    events += [{"event": "fitted", "step": 0, "time": 600.25, "constraint": name, "auc": 0.91234567} for name in "ab"]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    table = Page(write_report(folder).read_text(encoding="utf-8")).tables[-1]
    assert [[cell.strip() for cell in row] for row in table[1:]] == [
        ["499.0", "0", "sampled", "batch 499"],
        ["590.2", "0", "fitted", "constraint a, auc 0.912346"],
        ["590.2", "0", "fitted", "constraint b, auc 0.912346"],
    ]


def test_what_went_wrong_on_the_way_is_told_with_the_training(make_run):
    folder = make_run()
    event = {"event": "fault", "step": 3, "time": 1.0, "sentence": "step 3: the loss is nan; <b>skipped</b>"}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<li>step 3: the loss is nan; &lt;b&gt;skipped&lt;/b&gt;</li>" in page


def test_the_same_run_gives_the_same_report(make_run):
    folder = make_run()
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()
    assert not list(folder.glob(".*"))


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writing_a_report_imports_no_torch():
    code = "import sys, adhere.report.html, adhere.oracles.embedded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
