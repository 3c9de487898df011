"""A fine-tuned model as notebooks and scripts use it: a Transformers pipeline, one text after another.

    python -m scripts.plain_pipeline MODEL_FOLDER SECONDS < TEXTS.json

Prints the number of texts answered so far, once after the first and once after SECONDS more.
"""

import json
import sys
import time

import click


def main() -> None:
    """Answers the texts in turn."""
    folder, seconds = sys.argv[1], float(sys.argv[2])
    texts = json.load(sys.stdin)
    from transformers import pipeline

    classify = pipeline("text-classification", model=folder)
    classify(texts[0], truncation=True)
    click.echo("1")
    answered, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        classify(texts[answered % len(texts)], truncation=True)
        answered += 1
    click.echo(str(answered))


if __name__ == "__main__":
    main()
