"""What the page tells of an endpoint's life: its recent requests, and a candidate beside the champion."""

from tests.browser import Page
from tests.page_gateway import CANARY, LOGGED, Serve, answering


def test_recent_requests_are_shown_where_they_are_logged(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.wait_for("document.querySelector('#facts div') !== null")
    page.run(answering("/requests", LOGGED))
    page.tab_to("#recent summary")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#recent tbody tr').length === 2")

    assert page.text("#recent-note") == "3 texts since the gateway started."
    assert page.texts("#recent .counts li") == ["bullish 2"]
    shown, failed = (page.texts(f"#recent tbody tr:nth-child({number}) td")[1:] for number in (1, 2))
    assert shown == ["<b>bullish</b>", "bullish", "80.0 %", "3", "41 ms"]
    assert failed[1:3] == ["status 504", ""]
    page.problems.clear()  # what the endpoint itself answered


def test_an_endpoint_without_a_log_says_so(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.run("document.querySelector('#recent').open = true")
    page.wait_for("!document.querySelector('#recent-note').innerText.startsWith('Asking')")

    assert page.text("#recent-result") == ""
    assert all("404" in problem for problem in page.problems)
    page.problems.clear()


def test_a_candidate_is_shown_beside_the_champion(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/news")
    assert page.run("document.querySelector('#candidate').hidden")
    page.run(answering("/healthz", {"canary": CANARY}))
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for("!document.querySelector('#candidate').hidden")

    assert page.text("#candidate-what") == "Version 4 answers 10 % of the requests."
    assert page.text("#candidate-state") == "Running"
    assert page.texts("#candidate dd") == ["80 of at least 200 requests", "97.5 %, at least 90.0 %"]
    assert page.texts("#candidate-figures tr:nth-child(3) td") == ["900", "100"]
    assert page.texts("#candidate-figures tr:nth-child(4) td") == ["0.0 %", "–"]
