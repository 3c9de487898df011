"""The page as a reader meets it: in a headless Chromium, with the gateway behind it; without Ray."""

import asyncio
import functools
import json
import shlex
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from common.api_keys import KeyRing, create_key, keys_path
from common.errors import ServingError
from serve.batching import Answer, ServedVersion, Text
from serve.client import Prediction
from serve.endpoints import Deployment
from serve.event_log import EventLog
from serve.gateway_replica import assemble
from tests import browser
from tests.browser import Browser, Page
from tests.fake_backend import SPEC, FakeBackend

pytestmark = pytest.mark.skipif(
    browser.installed() is None, reason=f"no Chromium here: apt-get install {browser.PACKAGE}"
)

CARD = """---
base_model: org/encoder
model-index:
- name: headlines
  results: [{metrics: [{type: accuracy, value: 0.9287}, {type: macro_f1, value: 0.9285}]}]
---

# headlines

## Intended use

Classifies a **short** text as one of `bearish`, `bullish`. <img src=x onerror=alert(1)> [a link](https://example.com)
[a trap](javascript:alert(1))

| split | rows |
| --- | --- |
| test | 561 |
"""
LABELS = ("bearish", "bullish", "neutral")
AWAKE = Deployment(replace(SPEC, max_queued_requests=100), num_running=1, num_starting=0)
ASLEEP = replace(AWAKE, num_running=0)


def answer(text: Text) -> Answer:
    """Of a text that names a label, that label; of others the last one."""
    label = next((label for label in LABELS if label in text), LABELS[-1])
    scores = {each: 0.8 if each == label else 0.1 for each in LABELS}
    return {"label": label, "score": 0.8, "scores": scores, "logits": (0.0, 0.0, 2.0), "truncated": False}


class Classifying(FakeBackend):
    """Answers by the words of a text, and is awake once it has answered."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        await super().classify(name, served, texts)
        self.deployed[name] = replace(self.deployed[name], num_running=1)
        return [answer(text) for text in texts]


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens, and what is behind it; `tell` has the server's own thread do something."""

    url: str
    backend: Classifying
    loop: asyncio.AbstractEventLoop

    def tell(self, do: Callable[[], Any]) -> None:
        """Does it, and returns when that is done."""
        asyncio.run_coroutine_threadsafe(_done(do), self.loop).result()


async def _done(do: Callable[[], Any]) -> None:
    do()


class Server(uvicorn.Server):
    """Tells its event loop."""

    loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway in front of the given deployments, `news` among them."""
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    running: list[tuple[Server, threading.Thread]] = []

    def start(news: Deployment = AWAKE, *, on_loopback: bool = True, **others: Deployment) -> Gateway:
        backend = Classifying(deployed={"news": news, **others}, model_card=CARD)
        app = assemble(backend, KeyRing(keys_path()), EventLog(tmp_path), on_loopback=on_loopback)
        server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while server.loop is None:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        return Gateway(f"http://127.0.0.1:{port}", backend, server.loop)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """An empty page, in which nothing may fail and which may ask nobody but the gateway."""
    with chromium.page() as opened:
        yield opened
        assert opened.problems == []
        assert {host.partition(":")[0] for host in opened.hosts} <= {"127.0.0.1", ""}


def texts_of(page: Page, selector: str) -> list[str]:
    return page.run(f"[...document.querySelectorAll({selector!r})].map((found) => found.innerText.trim())")


def test_a_text_that_is_typed_gets_its_scores_as_bars_without_a_mouse(
    serve: Callable[..., Gateway], page: Page
) -> None:
    gateway = serve()
    page.open(f"{gateway.url}/news")
    page.tab_to("#text")
    page.type("a bullish headline")
    page.press("Tab")
    page.press("Enter")
    page.wait_for("document.querySelector('.bars')")

    assert page.text(".verdict") == "bullish 80.0 %"
    assert texts_of(page, ".bars .label") == ["bullish", "bearish", "neutral"]
    widths = page.run("[...document.querySelectorAll('.filled')].map((bar) => bar.getBoundingClientRect().width)")
    assert widths[0] > 5 * widths[1] > 0
    assert "Version 1; answered in " in page.text("#one-result")
    assert page.run("document.querySelector('#one-result').ariaLive") == "polite"
    assert [batch[2] for batch in gateway.backend.batches] == [["a bullish headline"]]


def test_a_sleeping_endpoint_is_woken_by_the_first_text_and_not_by_looking(
    serve: Callable[..., Gateway], page: Page
) -> None:
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


def test_the_models_card_is_shown_and_nothing_in_it_becomes_markup(serve: Callable[..., Gateway], page: Page) -> None:
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
    assert texts_of(page, "#card-text td") == ["test", "561"]


def test_many_texts_are_pasted_sent_in_parts_counted_and_saved(serve: Callable[..., Gateway], page: Page) -> None:
    gateway = serve()
    texts = [f"{LABELS[number % 3]} {number}" for number in range(150)]
    page.open(f"{gateway.url}/news")
    page.tab_to("#tab-one")
    page.press("ArrowRight")
    page.tab_to("#texts")
    page.paste("\n".join(texts) + "\n\n")
    assert page.text("#many-count") == "150 texts"
    page.run("URL.createObjectURL = (blob) => ((window.saved = blob.text()), '#')")
    page.press("Enter", "Control")
    page.wait_for("document.querySelector('.results') !== null")

    assert [text for batch in gateway.backend.batches for text in batch[2]] == texts
    assert max(len(batch[2]) for batch in gateway.backend.batches) == 64
    assert texts_of(page, ".counts li") == ["bearish 50", "bullish 50", "neutral 50"]
    assert page.run("document.querySelectorAll('.results tbody tr').length") == 100
    page.tab_to("#save")
    page.press("Enter")
    lines = page.run("window.saved").splitlines()
    assert lines[:2] == [
        "text,label,score,score_bearish,score_bullish,score_neutral,version,problem",
        "bearish 0,bearish,0.8,0.8,0.1,0.1,1,",
    ]
    assert len(lines) == 151


def test_a_text_that_is_refused_fails_alone(serve: Callable[..., Gateway], page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.run("document.querySelector('#tab-many').click(), document.querySelector('#texts').focus()")
    page.paste("bullish\n" + "x" * 100_001 + "\nbearish")
    page.press("Enter", "Control")
    page.wait_for("document.querySelectorAll('.results tbody tr').length === 3")

    assert texts_of(page, ".results td.problem") == [
        "This text has 100001 characters and may have 100000; send its beginning."
    ]
    assert "bullish 1" in page.text(".counts")
    assert page.text(".results tbody tr:nth-child(2) td:nth-child(2)").endswith("… (100,001 characters)")
    assert page.problems
    assert all("413" in problem for problem in page.problems)
    page.problems.clear()


def test_a_file_is_chosen_or_dropped_and_one_of_its_columns_taken(
    serve: Callable[..., Gateway], page: Page, tmp_path: Path
) -> None:
    gateway = serve()
    table = tmp_path / "reviews.csv"
    table.write_text('id;Text;stars\n1;"bullish; with ""quotes""\nand a line";5\n2;bearish;1\n', "utf-8")
    page.open(f"{gateway.url}/news")
    page.run("document.querySelector('#tab-many').click()")
    page.choose_file("#file", table)
    page.wait_for("document.querySelector('#many-count').innerText === '2 texts'")
    assert page.text("#chosen-name") == "reviews.csv: 3 rows"
    assert page.run("document.querySelector('#column').selectedOptions[0].text") == "Text"
    page.run("document.querySelector('#many-form').requestSubmit()")
    page.wait_for("document.querySelector('.results') !== null")
    assert gateway.backend.batches[-1][2] == ['bullish; with "quotes"\nand a line', "bearish"]

    page.run(
        """(() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["one\\r\\ntwo\\n\\nthree"], "lines.txt"));
            for (const kind of ["dragover", "drop"])
                document.querySelector("#many").dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true }));
        })()"""
    )
    page.wait_for("document.querySelector('#many-count').innerText === '3 texts'")
    page.tab_to("#forget-file")
    page.press("Enter")
    page.wait_for("document.activeElement.id === 'texts'")


def test_calls_are_copied_with_this_address_and_the_readers_text(serve: Callable[..., Gateway], page: Page) -> None:
    url = f"{serve().url}/news"
    page.open(url)
    page.tab_to("#text")
    page.type('it\'s "good"')
    page.tab_to("#call-curl .copy")
    copied = {}
    for client in ("curl", "python", "hub"):
        page.run(f"document.querySelector('#tab-{client}').click()")
        page.run(f"document.querySelector('#call-{client} .copy').click()")
        page.wait_for(f"document.querySelector('#call-{client} .copied').innerText === 'Copied.'")
        copied[client] = page.run("navigator.clipboard.readText()")

    asked = json.loads(shlex.split(copied["curl"].replace("\\\n", " "))[-1])
    assert asked == {"texts": ['it\'s "good"']}
    assert f"curl '{url}/classify'" in copied["curl"]
    said: list[Any] = []
    stand_in = types.ModuleType("client")
    stand_in.Client = functools.partial(_StandIn, said)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "client", stand_in)
        exec(compile(copied["python"], "copied", "exec"), {"print": lambda *_: None})
    assert said == [url, 'it\'s "good"']
    said.clear()
    exec(compile(copied["hub"], "copied", "exec"), {"print": said.extend})
    assert said[0].label == "neutral"


class _StandIn:
    """Takes the place of `serve.client.Client`, and notes what it is asked."""

    def __init__(self, said: list[Any], url: str) -> None:
        said.append(url)
        self.classify = lambda text: said.append(text) or Prediction("good", 1.0, {}, 1)

    def __enter__(self) -> "_StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_where_a_key_is_needed_the_page_asks_for_it_and_never_shows_it(
    serve: Callable[..., Gateway], page: Page
) -> None:
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


def test_an_error_is_told_in_the_endpoints_own_words(serve: Callable[..., Gateway], page: Page) -> None:
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


ROW = {
    "time": "2026-11-27T05:30:00.123+00:00",
    "text": "<b>bullish</b>",
    "text_pair": None,
    "label": "bullish",
    "score": 0.8,
    "status": 200,
    "version": 3,
    "latency_ms": 41.2,
}
LOGGED = {
    "texts": "plain",
    "dropped": 0,
    "counts": {"label": {"bullish": 2}, "version": {"3": 3}, "status": {"200": 2, "504": 1}},
    "requests": [ROW, {**ROW, "label": None, "score": None, "status": 504}],
}
SIDE = {"version": 3, "requests": 900, "error_rate": 0.0, "latency_p50_s": 0.012, "latency_p95_s": 0.03}
CANARY = {
    "mode": "canary",
    "percent": 10,
    "state": "running",
    "reason": None,
    "compared": 80,
    "min_requests": 200,
    "agreement": 0.975,
    "min_agreement": 0.9,
    "champion": SIDE,
    "candidate": {**SIDE, "version": 4, "requests": 100, "error_rate": None},
    "started_at": "2026-11-27T05:00:00+00:00",
    "problem": None,
}


def answering(path: str, answer: Any) -> str:
    """A script that has the page get `answer` for `path`, laid over what the endpoint itself answers there."""
    return f"""(() => {{
        const asked = window.fetch;
        window.fetch = async (url, options) => {{
            const response = await asked(url, options);
            if (!url.endsWith({path!r})) return response;
            const own = await response.json();
            return new Response(JSON.stringify({{ ...own, ...{json.dumps(answer)} }}));
        }};
    }})()"""


def test_recent_requests_are_shown_where_they_are_logged(serve: Callable[..., Gateway], page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.wait_for("document.querySelector('#facts div') !== null")
    page.run(answering("/requests", LOGGED))
    page.tab_to("#recent summary")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#recent tbody tr').length === 2")

    assert page.text("#recent-note") == "3 texts since the gateway started."
    assert texts_of(page, "#recent .counts li") == ["bullish 2"]
    shown, failed = (texts_of(page, f"#recent tbody tr:nth-child({number}) td")[1:] for number in (1, 2))
    assert shown == ["<b>bullish</b>", "bullish", "80.0 %", "3", "41 ms"]
    assert failed[1:3] == ["status 504", ""]
    page.problems.clear()  # what the endpoint itself answered


def test_an_endpoint_without_a_log_says_so(serve: Callable[..., Gateway], page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.run("document.querySelector('#recent').open = true")
    page.wait_for("!document.querySelector('#recent-note').innerText.startsWith('Asking')")

    assert page.text("#recent-result") == ""
    assert all("404" in problem for problem in page.problems)
    page.problems.clear()


def test_a_candidate_is_shown_beside_the_champion(serve: Callable[..., Gateway], page: Page) -> None:
    page.open(f"{serve().url}/news")
    assert page.run("document.querySelector('#candidate').hidden")
    page.run(answering("/healthz", {"canary": CANARY}))
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for("!document.querySelector('#candidate').hidden")

    assert page.text("#candidate-what") == "Version 4 answers 10 % of the requests."
    assert page.text("#candidate-state") == "Running"
    assert texts_of(page, "#candidate dd") == ["80 of at least 200 requests", "97.5 %, at least 90.0 %"]
    assert texts_of(page, "#candidate-figures tr:nth-child(3) td") == ["900", "100"]
    assert texts_of(page, "#candidate-figures tr:nth-child(4) td") == ["0.0 %", "–"]


def test_an_endpoint_that_is_not_there_is_told_with_those_that_are(serve: Callable[..., Gateway], page: Page) -> None:
    page.open(f"{serve().url}/olds")
    page.wait_for("!document.querySelector('#problem').hidden")

    assert page.text("#problem") == "There is no endpoint 'olds'; there are: news."
    assert page.run("document.querySelector('#columns').hidden")
    assert all("404" in problem for problem in page.problems)
    page.problems.clear()
    page.run("document.querySelector('.brand a').click()")
    page.wait_for("document.querySelector('.endpoints').innerText.includes('headlines, version 1')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_and_is_readable_in_light_and_dark(
    serve: Callable[..., Gateway], chromium: Browser, dark: bool
) -> None:
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
