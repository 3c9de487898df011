"""Many texts on the page: by paste and by file, as a table and as CSV."""

from pathlib import Path

from tests.browser import Page
from tests.page_gateway import LABELS, Serve


def test_many_texts_are_pasted_sent_in_parts_counted_and_saved(serve: Serve, page: Page) -> None:
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
    assert page.texts(".counts li") == ["bearish 50", "bullish 50", "neutral 50"]
    assert page.run("document.querySelectorAll('.results tbody tr').length") == 100
    page.tab_to("#save")
    page.press("Enter")
    lines = page.run("window.saved").splitlines()
    assert lines[:2] == [
        "text,label,score,score_bearish,score_bullish,score_neutral,version,problem",
        "bearish 0,bearish,0.8,0.8,0.1,0.1,1,",
    ]
    assert len(lines) == 151


def test_a_text_that_is_refused_fails_alone(serve: Serve, page: Page) -> None:
    page.open(f"{serve().url}/news")
    page.run("document.querySelector('#tab-many').click(), document.querySelector('#texts').focus()")
    page.paste("bullish\n" + "x" * 100_001 + "\nbearish")
    page.press("Enter", "Control")
    page.wait_for("document.querySelectorAll('.results tbody tr').length === 3")

    assert page.texts(".results td.problem") == [
        "This text has 100001 characters and may have 100000; send its beginning."
    ]
    assert "bullish 1" in page.text(".counts")
    assert page.text(".results tbody tr:nth-child(2) td:nth-child(2)").endswith("… (100,001 characters)")
    assert page.problems
    assert all("413" in problem for problem in page.problems)
    page.problems.clear()


def test_a_file_is_chosen_or_dropped_and_one_of_its_columns_taken(serve: Serve, page: Page, tmp_path: Path) -> None:
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
