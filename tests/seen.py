"""What people see of a page on a telephone, in light and in dark."""

import contextlib

import numpy as np


@contextlib.contextmanager
def seen_at_390px(browser, scheme):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    yield
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def assert_readable(browser, scheme):
    """Nothing is wider than the screen, the contrast is high, and no word is broken unless it is longer than a line."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    back, text = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    assert contrast(back, text) > 7 and (luminance(back) < luminance(text)) == (scheme == "dark")
    broken = browser.execute_script(
        """const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let node; node = walker.nextNode();) {
          if (!node.parentElement.checkVisibility() || node.parentElement.closest("script, style, select")) continue;
          for (const word of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
            const range = document.createRange();
            range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) found.push(word[0]);
          }
        }
        return found"""
    )
    assert {word for word in broken if len(word) < 30} == set()


def luminance(color):
    parts = np.array(color.partition("(")[2].rstrip(")").split(",")[:3], float) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
