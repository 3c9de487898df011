"""The usual way to serve a classifier with Ray Serve, as its guide shows: what the benchmarks compare with.

    python -m scripts.plain_serve MODEL_FOLDER PORT

https://docs.ray.io/en/latest/serve/tutorials/text-classification.html: FastAPI in front of a Transformers pipeline.
"""

import sys
import threading

import ray
import ray.serve
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Text(BaseModel):
    """The body of a request."""

    text: str


MAX_ONGOING_REQUESTS = 128
"""As many as the benchmark has connections. With Serve's own 5, requests would queue before the one process that
answers them: it is the peer's best way that ours is held against."""


@ray.serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS)
@ray.serve.ingress(app)
class PlainClassifier:
    """A pipeline in a replica."""

    def __init__(self, folder: str) -> None:
        from transformers import pipeline

        self._pipeline = pipeline(
            "text-classification", model=f"{folder}/model", tokenizer=f"{folder}/components/tokenizer"
        )

    @app.post("/")
    def classify(self, body: Text) -> list[dict[str, object]]:
        """One text's label and score."""
        answer: list[dict[str, object]] = self._pipeline(body.text, truncation=True)
        return answer


def main() -> None:
    """Serves until it is ended."""
    folder, port = sys.argv[1], int(sys.argv[2])
    ray.init("local", include_dashboard=False, log_to_driver=False)
    ray.serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray.serve.run(PlainClassifier.bind(folder))  # type: ignore[attr-defined]  # what the decorator made of it
    threading.Event().wait()


if __name__ == "__main__":
    main()
