"""The page as a reader meets it: in a headless Chromium, with a gateway behind it; without Ray."""

from pathlib import Path

import pytest

from common.api_keys import create_key
from common.errors import ServingError
from tests.browser import Browser, Page
from tests.page_gateway import ASLEEP, AWAKE, CANARY, LOGGED, Serve, answering


def test_a_text_that_is_typed_gets_its_scores_as_bars_without_a_mouse(serve: Serve, page: Page) -> None:
    gateway = serve()
    page.open(f"{gateway.url}/news")
    page.tab_to("#text")
    page.type("a bullish headline")
    page.press("Tab")
    page.press("Enter")
    page.wait_for("document.querySelector('.bars')")

    assert page.text(".verdict") == "bullish 80.0 %"
    assert page.texts(".bars .label") == ["bullish", "bearish", "neutral"]
    widths = page.run("[...document.querySelectorAll('.filled')].map((bar) => bar.getBoundingClientRect().width)")
    assert widths[0] > 5 * widths[1] > 0
    assert "Version 1; answered in " in page.text("#one-result")
    assert page.run("document.querySelector('#one-result').ariaLive") == "polite"
    assert [batch[2] for batch in gateway.backend.batches] == [["a bullish headline"]]


def test_a_sleeping_endpoint_is_woken_by_the_first_text_and_not_by_looking(serve: Serve, page: Page) -> None:
    gateway = serve(ASLEEP)
    page.open(f"{gateway.url}/news")
    page.wait_for("document.querySelector('#state').innerText === 'Asleep'")
    page.wait_for("document.querySelector('#facts').innerText.includes('org/encoder')")
    assert gateway.backend.batches == []

    gateway.tell(gateway.backend.is_open.clear)
    page.tab_to("#text")
    page.type("bearish")
    page.press("Enter", "Control")
    page.wait_for("document.querySelector('#state').innerText === 'Waking'")
    page.wait_for("document.querySelector('.waiting') !== null")
    gateway.tell(gateway.backend.is_open.set)

    page.wait_for("document.querySelector('#state').innerText === 'Awake'")
    page.wait_for("document.querySelector('#one-result').innerText.includes('woken from sleep, answered after')")
    assert page.text("#wake").startswith("The last wake took ")


def test_the_models_card_is_shown_and_nothing_in_it_becomes_markup(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.tab_to("#card-details summary")
    page.press("Enter")
    card = page.text("#card-text")

    assert page.text("#model") == "headlines, version 1"
    assert page.text("#metrics") == "On the test split\naccuracy\t0.9287\nmacro_f1\t0.9285"
    assert "<img src=x onerror=alert(1)>" in card
    assert "[a trap](javascript:alert(1))" in card
    assert page.run("[...document.querySelectorAll('#card-text a')].map((link) => link.href)") == [
        "https://example.com/"
    ]
    assert page.run("document.querySelectorAll('#card-text img, #card-text script').length") == 0
    assert page.texts("#card-text td") == ["test", "561"]


def test_where_a_key_is_needed_the_page_asks_for_it_and_never_shows_it(serve: Serve, page: Page) -> None:
    gateway = serve(on_loopback=False)
    key = create_key("reader", ["news"])
    page.open(f"{gateway.url}/news")
    page.wait_for("document.activeElement.id === 'key'")
    page.type(f"{key[:-1]}x")
    page.press("Enter")
    page.wait_for("document.querySelector('#problem').innerText === 'The key is unknown, revoked or expired.'")
    page.paste(key)
    page.press("Enter")
    page.wait_for("document.querySelector('#key-form').hidden")
    page.tab_to("#text")
    page.type("bullish")
    page.press("Enter", "Control")
    page.wait_for("document.querySelector('.bars') !== null")

    assert "Authorization: Bearer $API_KEY" in page.text("#call-curl code")
    assert key not in page.run("document.documentElement.outerHTML")
    assert page.run("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
    assert page.problems
    assert all("401" in problem for problem in page.problems)
    page.problems.clear()


def test_an_error_is_told_in_the_endpoints_own_words(serve: Serve, page: Page) -> None:
    gateway = serve()
    gateway.backend.replica_error = ServingError("version 1 of 'headlines' cannot be loaded: no model.onnx")
    page.open(f"{gateway.url}/news")
    page.run("document.querySelector('#text').focus()")
    page.press("Enter", "Control")
    page.wait_for("document.querySelector('#one-result').innerText.includes('There is no text yet')")
    page.type("a")
    page.press("Enter", "Control")
    page.wait_for("document.querySelector('#one-result').innerText.includes('no model.onnx.')")

    assert all("500" in problem for problem in page.problems)
    page.problems.clear()


def test_an_endpoint_that_is_not_there_is_told_with_those_that_are(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/olds")
    page.wait_for("!document.querySelector('#problem').hidden")

    assert page.text("#problem") == "There is no endpoint 'olds'; there are: news."
    assert page.run("document.querySelector('#columns').hidden")
    assert all("404" in problem for problem in page.problems)
    page.problems.clear()
    page.run("document.querySelector('.brand a').click()")
    page.wait_for("document.querySelector('.endpoints').innerText.includes('headlines, version 1')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_and_is_readable_in_light_and_dark(serve: Serve, chromium: Browser, dark: bool) -> None:
    gateway = serve(long_name=AWAKE)
    with chromium.page(width=360, height=740, dark=dark) as page:
        page.open(f"{gateway.url}/")
        page.wait_for("document.querySelectorAll('.endpoints li').length === 2")
        page.open(f"{gateway.url}/news")
        page.wait_for("document.querySelector('#facts').innerText.includes('org/encoder')")
        page.run(answering("/requests", LOGGED))
        page.run(answering("/healthz", {"canary": CANARY}))
        page.run("for (const each of document.querySelectorAll('details')) each.open = true")
        page.wait_for("document.querySelectorAll('#recent tbody tr').length === 2")
        page.run("document.querySelector('#text').focus()")
        page.paste("bullish " * 100 + "x" * 300)
        page.press("Enter", "Control")
        page.wait_for("document.querySelector('.bars') !== null")
        assert page.run("document.documentElement.scrollWidth") == 360
        page.run("document.querySelector('#tab-many').click()")
        page.choose_file("#file", Path(__file__))
        page.wait_for("!document.querySelector('#chosen').hidden")
        page.run("document.querySelector('#many-form').requestSubmit()")
        page.wait_for("document.querySelector('.results') !== null")
        assert page.run("document.documentElement.scrollWidth") == 360
        assert page.run("!document.querySelector('#candidate').hidden")
        unreadable = page.run(CONTRAST)
    assert unreadable == []


CONTRAST = """
(() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
        const [r, g, b] = channels(colour).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (found) => {
        for (; found; found = found.parentElement) {
            const colour = getComputedStyle(found).backgroundColor;
            if (channels(colour)[3] !== 0) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("body *")]
        .filter((found) => found.checkVisibility())
        .filter((found) => [...found.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .map((found) => {
            const [one, other] = [getComputedStyle(found).color, ground(found)].map(luminance).sort((a, b) => b - a);
            return [(one + 0.05) / (other + 0.05), found.outerHTML.slice(0, 100)];
        })
        .filter(([contrast]) => contrast < 4.5);
})()
"""
"""Texts whose contrast with what is behind them is below WCAG's 4.5 (level AA)."""
