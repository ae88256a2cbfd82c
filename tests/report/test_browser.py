"""The report as a browser shows it: headless Chromium opens the file, runs its scripts and prints the page it made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.report.html import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

CLICK = """<script>
const button = document.querySelector("button.unmask");
button.click();
document.documentElement.dataset.pressed = button.getAttribute("aria-pressed");
</script>"""


def rendered(path: Path, profile: Path) -> str:
    """The page after its scripts have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    environment = {**os.environ, "HOME": str(profile)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return done.stdout


def seen(html: str) -> str:
    """Its text, without scripts, styles and tags."""
    return re.sub(r"<[^>]*>", "", re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL))


@pytest.fixture
def report(make_run: Callable[..., Path]) -> Path:
    return write_report(make_run(("clean", "no addresses")))


@pytest.fixture(scope="module")
def page(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(write_report(make_run(("clean", "no addresses"))), tmp_path_factory.mktemp("profile"))


def test_a_browser_draws_the_table_and_every_figure_and_masks_words(page):
    assert "constrained ÷ plain" in seen(page) and "0.172 ×" in seen(page)
    for key in ("violations", "loss", "kl", "satisfaction", "quality"):
        assert re.search(rf'id="plot-{key}" class="canvas js-plotly-plot"', page), key
    assert page.count('<svg class="main-svg"') >= 5
    assert len(re.findall(r'<path class="js-line"', page)) >= 8  # the curves themselves
    assert len(re.findall(r'class="xerror"', page)) >= 3  # and the intervals
    assert "constraint no addresses" in seen(page)
    assert "d•••" in seen(page) and "damn" not in seen(page)
    assert '<button type="button" class="unmask" aria-pressed="false">Show masked words' in page


def test_text_that_a_model_wrote_does_not_run_in_a_browser(page):
    assert "<title>demo · adhere</title>" in page
    assert "&lt;script&gt;document.title = 'owned'&lt;/script&gt;" in page


def test_even_an_unescaped_script_does_not_run_in_a_browser(report, tmp_path):
    html = report.read_text(encoding="utf-8")
    report.write_text(html.replace("</main>", "</main><script>document.title = 'owned'</script>"), encoding="utf-8")
    assert "<title>demo · adhere</title>" in rendered(report, tmp_path / "profile")


def test_the_switch_shows_the_masked_words(report, tmp_path):
    html = report.read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)  # so that the test may click
    report.write_text(html.replace("</body>", CLICK + "</body>"), encoding="utf-8")
    page = rendered(report, tmp_path / "profile")
    assert 'data-pressed="true"' in page
    assert "damn" in seen(page) and "d•••" not in seen(page)
