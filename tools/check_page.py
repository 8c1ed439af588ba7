"""Check a report in headless Chromium: python tools/check_page.py OUT/report.html. Exit code 1 if something is wrong.

    overflow    nothing is wider than the page, at 390 and 1,200 pixels, and on paper, what is folded up included
    keyboard    Tab reaches every summary and every command, each with a visible outline
    contrast    of text on what is behind it: 4.5 at least, in light and in dark (WCAG 2.1, AA)

Needs a Chromium; see tools/chromium.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from chromium import Chromium, program

WIDTHS = (390, 1200)
PAPER = 718  # CSS pixels between the margins of A4
LEAST = 4.5
UNFOLD = "document.querySelectorAll('details').forEach(e => { e.open = true })"
OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 0.5 && !e.closest('thead');
}).map(e => e.tagName + ' ' + (e.id || e.className.baseVal || e.className || '') + ' ' + e.textContent.slice(0, 40))"""
STOPS = "[...document.querySelectorAll('summary, pre')].filter(e => e.getClientRects().length).length"
FOCUSED = """(() => { const e = document.activeElement, style = getComputedStyle(e);
  const all = [...document.querySelectorAll('summary, pre')].filter(e => e.getClientRects().length);
  return [all.indexOf(e), e.tagName, style.outlineStyle != 'none' && parseFloat(style.outlineWidth) >= 1]; })()"""
FAINT = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = rgb => { const [r, g, b] = rgb.map(c => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (found.length == 3 || found[3] == 1) return found.slice(0, 3); }
    return [255, 255, 255]; };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || !e.getClientRects().length || ['TITLE', 'DESC', 'STYLE'].includes(e.tagName.toUpperCase()))
      continue;
    const ink = parts(e.closest('svg') ? style.fill : style.color).slice(0, 3);
    const [low, high] = [light(ink), light(behind(e))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < LEAST) found.add(ratio.toFixed(2) + ': ' + e.tagName + ' ' + node.data.trim().slice(0, 40));
  }
  return [...found]; })()""".replace("LEAST", str(LEAST))


def faults(page: Path) -> Iterator[str]:
    """What is wrong, in words."""
    with Chromium(page) as browser:
        browser.view(WIDTHS[-1])
        yield from _unreached(browser)
        browser.value(UNFOLD)
        for width, media in (*((width, "screen") for width in WIDTHS), (PAPER, "print")):
            browser.view(width, media)
            place = "on paper" if media == "print" else f"at {width} pixels"
            yield from (f"overflow {place}: {words}" for words in browser.value(OVERFLOWING))
        for dark in (False, True):
            browser.view(WIDTHS[-1], dark=dark)
            yield from (f"contrast in {'dark' if dark else 'light'}: {words}" for words in browser.value(FAINT))


def _unreached(browser: Chromium) -> Iterator[str]:
    count = browser.value(STOPS)
    reached: set[int] = set()
    for _ in range(count):
        browser.press("Tab", 9)
        number, name, outlined = browser.value(FOCUSED)
        reached.add(number)
        if number >= 0 and not outlined:
            yield f"keyboard: {name.lower()} {number} has no outline when it has the focus"
    if missing := sorted({*range(count)} - reached):
        yield f"keyboard: Tab does not reach {len(missing)} of {count} summaries and commands: {missing}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    if program() is None:
        sys.exit("no Chromium: install one, or set CHROMIUM to its path")
    if found := list(faults(page)):
        sys.exit("\n".join(found))
    print(f"{page}: nothing overflows, Tab reaches every summary and command, contrast is {LEAST} or more")


if __name__ == "__main__":
    main()
