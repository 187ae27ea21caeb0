"""How long a report of 10,000 sessions and 10 minutes takes to make, to open, and to zoom, in headless Chromium.

Run it as `python benchmarks/html_report.py`; needs the development environment and Debian's chromium.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from affinity_tester.report.html import html_text
from affinity_tester.report.recorded_run import load

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "browser"))
from big_run import big_run

ZOOM = """async () => {
  const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const plus = document.querySelector("#timeline button[title^='zoom in']"), took = [];
  for (let n = 0; n < 5; n += 1) {
    const since = performance.now(); plus.click(); took.push(performance.now() - since); await frame();
  }
  return took;
}"""


def main() -> None:
    """Print the figures of one report."""
    events = list(big_run(10_000, 600, changes=12_000, losses=60_000))
    started = time.perf_counter()
    page_text = html_text(load(events))
    print(f"{len(events):,} events: {len(page_text) / 1e6:.1f} MB made in {time.perf_counter() - started:.1f} s")

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        path = Path(scratch) / "report.html"
        path.write_text(page_text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        paints, zooms = [], []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.goto(path.as_uri())
            paints.append(
                page.evaluate(
                    "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()"
                )
            )
            zooms += page.evaluate(ZOOM)
            page.close()
        browser.close()
    print(f"first paint {statistics.median(paints):.0f} ms, a zoom {statistics.median(zooms):.0f} ms (medians)")
    print(f"the slowest: {max(paints):.0f} ms, {max(zooms):.0f} ms")


if __name__ == "__main__":
    main()
