"""Comparison and sweep as a browser shows them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adhere.evaluation.side_by_side import Comparison
from adhere.records import Measurement
from adhere.report.comparison import comparison_page
from adhere.report.sweep import sweep_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

POINTS = {"sft": (0.40, 24.0), "<b>ours</b>": (0.08, 23.5), "weight = 4": (0.06, 26.0)}


def rows(**tags: str) -> list[Measurement]:
    made = []
    for model, (rate, perplexity) in POINTS.items():
        mine = {"model": model, **tags, **({"at": "4"} if "=" in model else {})}
        made.append(Measurement("violation_rate", rate, rate - 0.03, rate + 0.03, 490, tags=mine))
        made.append(Measurement("clean_perplexity", perplexity, 0.9 * perplexity, 1.1 * perplexity, 200, tags=mine))
    return made


def rendered(html: str, folder: Path) -> str:
    """The page after its scripts have run."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    environment = {**os.environ, "HOME": str(folder / "profile")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return done.stdout


def test_a_browser_draws_a_comparison_with_its_front(tmp_path):
    comparison = Comparison("sft", tuple(POINTS), tuple(rows()), (), (), {model: {} for model in POINTS})
    page = rendered(comparison_page(comparison, "", "adhere compare a b"), tmp_path)
    assert len(re.findall(r'class="canvas js-plotly-plot"', page)) == 1
    assert len(re.findall(r'class="xerror"', page)) == len(re.findall(r'class="yerror"', page)) == 3
    assert "the front: none is better in both" in page
    assert "<b>ours</b>" not in re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def test_a_browser_draws_a_sweep_with_the_values_on_the_curve(tmp_path):
    page = rendered(sweep_page(rows(seed="0"), "constraints.0.weight", ["4"], "s", {}), tmp_path)
    assert re.search(r'class="textpoint"[^>]*>.*?>4<', page, re.DOTALL)
    assert "over constraints.0.weight" in page and "plain fine-tuning" in page
