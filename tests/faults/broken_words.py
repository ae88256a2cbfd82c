"""Command lines that cannot be carried out; they are typed in a folder that holds what `lay_out` puts there."""

from __future__ import annotations

import json
from pathlib import Path

from broken_recipes import MINIMAL


def lay_out(folder: Path) -> None:
    """A recipe `r.yaml` whose model is missing, outputs `s.jsonl`, and files that are broken."""
    (folder / "r.yaml").write_text(json.dumps(MINIMAL), encoding="utf-8")
    (folder / "s.jsonl").write_text('{"output": "x"}\n', encoding="utf-8")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "bin.jsonl").write_bytes(bytes(range(256)))
    (folder / "half.jsonl").write_text('{"output": "\\ud800"}\n', encoding="utf-8")
    (folder / "null.jsonl").write_text('{"output": null}\n', encoding="utf-8")
    (folder / "folder").mkdir()


def _labelling(oracle: str) -> list[str]:
    return ["label", "s.jsonl", "--oracle", oracle, "--out", "o.jsonl"]


_ENDPOINT = "kind: endpoint, score_path: a, direction: violation, url: 'http://x', request: '{output}'"

BROKEN_WORDS: list[list[str]] = [
    ["trian"], ["train"], ["train", "r.yaml", "--method", "foo"], ["train", "r.yaml", "--sets", "x"],
    ["train", "nope.yaml"], ["train", "folder"], ["train", "a\x00b"], ["train", "\udcff"], ["train", "x" * 5000],
    *(["train", "r.yaml", "--set", said] for said in (
        "seed", "=1", "seed=2024-02-31", "seed=" + "9" * 5000, "seed=" + "[" * 2000, "x=\x07", "model.path=a\x00b",
        "corpus.path=\udcff", "constraints.7.weight=1", "constraints.x=1", "seed.x=1", "seed=-1", "seed=1.5", "seed=[1",
        "model.path=/dev/null", "model.path=../../x y z", "model.path=folder", "training={}", "training.arguments.fp61=1",
        "output_dir=r.yaml", "model=&a [*a]", "nope=1", "method=sfft", "domains.d=7", "constraints=[]",
    )),
    ["check", "r.yaml", "extra"], ["check", "\x1b[2J"], ["demo", "--seed", "-1"], ["demo", "--output", "r.yaml/x"],
    ["sample", "folder"], ["sample", "folder", "--prompt", "x"], ["sample", "r.yaml", "--prompt", "x"],
    *(["sample", "folder", "--prompt", "x", *words] for words in (
        ["-n", "0"], ["-n", "a"], ["--seed", "9" * 30], ["--temperature", "nan"], ["--temperature", "inf"],
        ["--temperature", "0"], ["--top-k", "-1"], ["--top-p", "2"], ["--max-new-tokens", "0"], ["--guided"],
        ["--prompts", "nope.txt"],
    )),
    *(["sample", "folder", "--prompts", name] for name in ("nope.txt", "folder", "empty.jsonl", "bin.jsonl")),
    *(["label", name, "--oracle", "json", "--out", "o.jsonl"] for name in (
        "nope.jsonl", "empty.jsonl", "bin.jsonl", "half.jsonl", "null.jsonl", "folder", "r.yaml",
    )),
    *(["label", "s.jsonl", "--oracle", "json", "--out", out] for out in ("folder", "s.jsonl/x", "a\x00b")),
    *(_labelling(oracle) for oracle in (
        "", "7", "jsno", "[json]", "&a [*a]", "a\x00", "{kind: json", "{kind: json, x: 1}",
        "{kind: regex}", "{kind: regex, pattern: '('}", "{kind: regex, pattern: '" + "(" * 1000 + "'}",
        "{kind: regex, pattern: 'a{99999999999}'}", "{kind: regex, pattern: '(?<=a+)b'}",
        "{kind: words}", "{kind: words, path: nope}", "{kind: words, path: folder}", "{kind: words, path: bin.jsonl}",
        "{kind: words, path: empty.jsonl}", "{kind: words, words: []}", "{kind: words, words: ['']}",
        "{kind: words, words: [a], path: b}", "{kind: length}", "{kind: length, minimum: 3, maximum: 2}",
        "{kind: callable, function: 'nope:f'}", "{kind: callable, function: 'os:nope'}",
        "{kind: callable, function: os}", "{kind: callable, function: 'os:sep'}", "{kind: callable, function: ':'}",
        "{kind: all, oracles: []}", "{kind: not}", "{kind: judge, model: m, rubric: ' ', key_variable: null}",
        "{kind: judge, model: m, rubric: r, key_variable: NOT_SET_ANYWHERE}", "{kind: classifier, model: folder, label: x}",
        "{kind: judge, model: m, rubric: r, key_variable: sk-123}",
        f"{{{_ENDPOINT}, headers: {{'X Y': a}}}}", f'{{{_ENDPOINT}, headers: {{X: "a\\nb"}}}}',
        f"{{{_ENDPOINT}, headers: {{Authorization: a}}}}", f"{{{_ENDPOINT}, key_prefix: {'x' * 20}}}",
        f"{{{_ENDPOINT.replace('http://x', 'ftp://x')}}}", f"{{{_ENDPOINT.replace('http://x', 'http://[::1')}}}",
        f"{{{_ENDPOINT.replace('http://x', 'http://a:b@x')}}}", f"{{{_ENDPOINT.replace('http://x', 'http://x?key=1')}}}",
        f"{{{_ENDPOINT.replace('{output}', 'nothing')}}}", f"{{{_ENDPOINT.replace('score_path: a', 'score_path: a.*')}}}",
        "{kind: endpoint, url: 'http://x', request: {t: '{output}', n: .nan}, score_path: a, direction: violation}",
        "{kind: endpoint, url: 'http://x', request: {t: '{output}', d: 2024-01-01}, score_path: a, direction: violation}",
    )),
    *([name, where] for name in ("evaluate", "report", "compare") for where in ("nope", "folder", "r.yaml")),
    ["doctor", "nope"], ["doctor", "r.yaml"],
    ["compare"], ["cache", "empty"], ["joint", "nope.jsonl", "--out", "o.jsonl"],
    *(["sweep", "r.yaml", "--over", over] for over in ("x", "seed=a,b", "nope=1,2", "constraints.0.weight=", "=1")),
    ["sweep", "r.yaml", "--over", "constraints.0.weight=1,2", "--seeds", "a"],
    ["sweep", "r.yaml", "--over", "constraints.0.weight=1,2", "--baselines", "foo"],
]  # fmt: skip
