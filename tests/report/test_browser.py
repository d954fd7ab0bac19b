"""The report as a browser shows it: no error, no request, no sideways scrolling, legible in every form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.report.write import page_of, renew_report, write_page
from support.browser import CHROMIUM, Browser, browser
from support.made_up import write_made_up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install --no-install-recommends chromium"),
]
# The least contrast of all texts in the page with what lies below them, as the browser has computed the colours.
LEAST_CONTRAST = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const bright = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const below = node => {
    for (; node; node = node.parentElement) {
      const color = rgb(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let least = 99;
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || ["TITLE", "DESC", "title", "desc"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const color = rgb(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [bright(color), bright(below(node))].sort((x, y) => x - y);
    least = Math.min(least, (b + 0.05) / (a + 0.05));
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report of an artifact, and two artifacts side by side."""
    folder = tmp_path_factory.mktemp("reports")
    one, two = write_made_up(folder / "one"), write_made_up(folder / ("two-" + "with-a-very-long-name" * 4))
    renew_report(one)
    write_page(page_of([one, two]), folder / "both.html")
    return [one / "report.html", folder / "both.html"]


def test_no_error_no_request_and_no_sideways_scrolling(tab: Browser, pages: list[Path]) -> None:
    for page in pages:
        for width, dark in ((1200, False), (1200, True), (360, False), (320, True)):
            tab.requests.clear()
            tab.show(width, 900, dark=dark)
            tab.open(page.as_uri())
            assert tab.errors == []
            assert tab.requests == [page.as_uri()]
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, (page.name, width)
            # Nothing is cut off either, but for what scrolls in a frame of its own.
            wide = "[...document.querySelectorAll('section, .card, .verdict, figure')]"
            assert tab.evaluate(f"{wide}.every(e => e.getBoundingClientRect().right <= {width} + 1)")
            assert tab.evaluate(LEAST_CONTRAST) >= 4.5
            assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(15, 20, 26)") is dark


def test_scripts_would_not_run(tab: Browser, pages: list[Path], tmp_path: Path) -> None:
    text = pages[0].read_text().replace("</body>", "<script>document.title = 'run'</script><img src='x.png'></body>")
    (tmp_path / "spoilt.html").write_text(text)
    tab.open((tmp_path / "spoilt.html").as_uri())
    assert tab.evaluate("document.title") != "run"
    # Both were refused by the page's own policy, and the browser says so.
    assert sum("Content Security Policy" in error for error in tab.errors) == 2
    tab.errors.clear()


def test_everything_can_be_reached_by_keyboard_and_heard(tab: Browser, pages: list[Path]) -> None:
    tab.show(1200, 900)
    tab.open(pages[0].as_uri())
    tab.evaluate("document.body.focus()")
    seen = set()
    for _ in range(60):
        for kind in ("keyDown", "keyUp"):
            tab.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.add(tab.evaluate("(e => e.tagName + ' ' + (e.className || e.hash || ''))(document.activeElement)"))
        outlined = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        assert tab.evaluate(f"document.activeElement === document.body || {outlined}")
    assert {"A skip", "A #latency", "DIV scroll"} <= seen and any(entry.startswith("SUMMARY") for entry in seen)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img", "graphics-document")]
    named = [node for node in images if node.get("name", {}).get("value")]
    assert len(named) >= 8 and len(named) == len(images)


def test_it_prints(tab: Browser, pages: list[Path]) -> None:
    tab.show(1200, 900, dark=True)
    tab.open(pages[0].as_uri())
    tab.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    # Paper is white, whatever the screen is.
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(22, 32, 44)"
    data = tab.pdf()
    assert data.startswith(b"%PDF") and 2 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 12
