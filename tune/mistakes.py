"""What a sweep's winner says of the validation split: where it errs, and where it is surest of an error."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from common.classifier import probabilities
from common.errors import TuneserveError
from common.metrics import accuracy_of, confusion_matrix, macro_f1_of
from common.tokenised import PreparedData, local_folder, read_split
from tune.batches import TokenisedTexts
from tune.data_parallel import Worker
from tune.precision import Precision, compute_dtype
from tune.pretrained import load_classifier, local_checkpoint, plain_model
from tune.stored_sweep import Missing
from tune.train_loop import predict_logits

SPLIT = "validation"
"""Never the test split: a report is made as often as one likes, and every look at the test split would wear it out."""


@dataclass(frozen=True)
class Mistake:
    """A text whose label the model did not give."""

    text: str
    given: str
    """The label in the data."""
    predicted: str
    probability: float
    """Of the predicted label."""


@dataclass(frozen=True)
class Confusion:
    """A pair of labels that the model takes for each other, in one direction."""

    given: str
    predicted: str
    count: int
    share: float
    """Of the given label's rows."""


@dataclass(frozen=True)
class Answers:
    """A model's answers on the validation split."""

    labels: tuple[str, ...]
    texts: Sequence[str]
    """N texts."""
    actual: npt.NDArray[np.int64]
    """(N,) indices into `labels`."""
    probabilities: npt.NDArray[np.float64]
    """(N, labels)."""

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(N,) the most probable label of each text."""
        best: npt.NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def matrix(self) -> npt.NDArray[np.int64]:
        """Rows by given label (down) and predicted label (across)."""
        return confusion_matrix(self.predicted, self.actual, len(self.labels))

    @property
    def metrics(self) -> dict[str, float]:
        """As the train loop computes them."""
        matrix = self.matrix
        return {"accuracy": float(accuracy_of(matrix)), "macro_f1": float(macro_f1_of(matrix))}

    def mistakes(self, limit: int) -> list[Mistake]:
        """The wrong answers that the model was surest of, the surest first."""
        predicted = self.predicted
        confidence = self.probabilities.max(axis=1)
        wrong = np.flatnonzero(predicted != self.actual)
        surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
        return [
            Mistake(self.texts[row], self.labels[self.actual[row]], self.labels[predicted[row]], float(confidence[row]))
            for row in surest
        ]

    def confusions(self, limit: int) -> list[Confusion]:
        """The pairs of labels that are mistaken most often, the most frequent first."""
        matrix = self.matrix
        rows_of = matrix.sum(axis=1)
        wrong = matrix - np.diag(np.diag(matrix))
        most = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        return [
            Confusion(self.labels[given], self.labels[predicted], count, count / int(rows_of[given]))
            for given, predicted in zip(*np.unravel_index(most, wrong.shape), strict=True)
            if (count := int(wrong[given, predicted]))
        ]


def validation_answers(checkpoint: str, prepared_uri: str, precision: Precision) -> Answers | Missing:
    """A checkpoint's answers on the validation split, computed as the train loop does.

    `Missing` when the checkpoint or the data is gone, or is on another machine.
    """
    try:
        prepared = PreparedData.load(prepared_uri)
        data = local_folder(prepared)
        with TemporaryDirectory(prefix="tuneserve-") as folder:
            trained = local_checkpoint(checkpoint, Path(folder) / "checkpoint")
            logits = _logits(plain_model(trained, prepared, Path(folder) / "merged"), prepared, data, precision)
    except (TuneserveError, OSError, ValueError) as error:  # what transformers raises of a broken folder included
        return Missing(str(error).partition("\n")[0])
    rows = read_split(prepared, SPLIT)
    actual = rows["label"].to_numpy().astype(np.int64)
    return Answers(prepared.labels, rows["text"].to_pylist(), actual, probabilities(logits))


def _logits(checkpoint: Path, prepared: PreparedData, data: Path, precision: Precision) -> npt.NDArray[np.float32]:
    worker = Worker.current(use_gpu=None)
    # What was trained in fp16 was trained on a GPU, and a driver without one has no fp16.
    dtype = compute_dtype("auto" if precision == "fp16" else precision, worker.device)
    texts = TokenisedTexts.open(data / f"{SPLIT}.arrow")
    model = load_classifier(str(checkpoint), prepared.labels, prepared.pad_token_id)
    model.to(worker.device)  # type: ignore[arg-type]
    return predict_logits(model, texts, np.arange(len(texts)), worker, dtype, prepared.pad_token_id)
