"""The recipe: one typed description of a whole job.

`Recipe` says what a recipe may hold; `common.recipe_file` reads one from YAML with overrides. Units are part of the
names (`_s` seconds). The JSON Schema that editors use comes from these classes (`tuneserve recipes --schema`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from common.request_log_settings import RequestLog
from common.search_range import Range
from common.search_settings import Search
from common.settings import Fraction, Settings
from common.tracking_settings import Tracking

BUILTIN = "builtin:"
"""Prefix of the keywords for what ships with tuneserve: a recipe that uses them works from any folder."""

SEARCHABLE = (
    "learning_rate",
    "batch_size",
    "weight_decay",
    "warmup_ratio",
    "epochs",
    "precision",
    "lora.r",
    "lora.alpha",
    "lora.dropout",
    "lora.target_modules",
)
"""What `search.space` may vary: fields of `train` and, with `lora.` before them, of `model.lora`."""

LORA = "lora."


def _keys_as_text(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    named = {str(key): name for key, name in value.items()}
    if len(named) < len(value):
        twice = next(key for key in named if sum(str(other) == key for other in value) > 1)
        raise ValueError(f"label {twice!r} is given two names, as a number and as a text; keep one of them")
    return named


def _refuse_revision(revision: str | None, of: str) -> None:
    if revision is not None and (of.startswith((BUILTIN, "/")) or "://" in of):
        raise ValueError(f"revision {revision!r} has no effect: only the Hub has revisions, and {of} is not there")


def _sha256(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(
            f"{digest!r} is not the digest of rows, which has 64 digits 0-9a-f; copy the one that `tuneserve check` "
            "prints"
        )
    return digest


class Split(Settings):
    """How one table is divided. A text's side depends on its own hash and the seed alone."""

    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the distinct texts that selects between trials; unused when `validation_source` is given."""
    test: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the distinct texts that scores the winner once; unused when `test_source` is given."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 22
    """Changes which texts fall on which side."""

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leaves no rows to train on; keep the sum below 1"
            )
        return self


class Data(Settings):
    """Where the labelled texts come from."""

    source: str
    """A file or folder of CSV, Parquet or JSON Lines (a path or any URL that pyarrow or fsspec opens), a Hub data set
    id, or `builtin:finance_headlines`."""
    validation_source: str | None = None
    """A ready-made validation file, or the name of a Hub split; taken as it is."""
    test_source: str | None = None
    """A ready-made test file, or the name of a Hub split; taken as it is."""
    revision: str | None = None
    """The Hub data set's revision (branch, tag or commit)."""
    sha256: Annotated[str, AfterValidator(_sha256)] | None = None
    """Pins the rows: the digest that `tuneserve check` prints. Other rows are refused, with what changed."""
    encoding: str = "utf-8"
    """Character encoding of CSV and JSON Lines files."""
    column_names: tuple[str, ...] | None = None
    """Names for the columns of CSV files that have no header line."""
    text_column: str = "text"
    """The column that holds the text."""
    label_column: str = "label"
    """The column that holds the label."""
    label_names: Annotated[dict[str, str] | None, BeforeValidator(_keys_as_text)] = None
    """From each label as the data writes it (`"0"`) to the name that the model predicts (`bearish`)."""
    split: Split = Split()
    """How `source` is divided where no ready-made files are given."""

    @model_validator(mode="after")
    def _a_revision_is_the_hubs(self) -> Self:
        _refuse_revision(self.revision, self.source)
        return self


ALL_LINEAR = "all-linear"
"""What peft calls all linear layers of the encoder."""


def _module_names(value: Any) -> Any:
    """A searched setting is a number or a text, so names may come as one: `query,value`, or `all-linear`."""
    if not isinstance(value, str):
        return value
    return None if value == ALL_LINEAR else [name.strip() for name in value.split(",")]


_ModuleNames = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class Lora(Settings):
    """Low-rank adapters: the encoder's weights stay as they are, and small matrices beside them are trained."""

    r: PositiveInt = 8
    """Rank of the adapters."""
    alpha: PositiveInt = 16
    """The adapters' output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    target_modules: Annotated[_ModuleNames | None, BeforeValidator(_module_names)] = None
    """Names of the linear layers that get adapters (`[query, value]`); when not given, all of the encoder. In a search
    each choice is one text: `["query,value", all-linear]`."""


class Model(Settings):
    """The pretrained encoder to start from."""

    base: str
    """A Hub model id, a folder with its weights and tokenizer, or `builtin:tiny_bert`."""
    revision: str | None = None
    """The Hub model's revision (branch, tag or commit); when not given, the newest. The commit that it stands for when
    a job begins is what all of the job's processes load."""
    head: Literal["auto", "new"] = "auto"
    """What a base model that is a classifier already starts with. `auto`: its own outputs for the data's labels, found
    by name (upper and lower case are the same); one that names other labels is refused. `new`: a head drawn anew."""
    max_length: Annotated[int, Field(ge=4, le=8192)] = 128
    """Texts are cut to this many tokens, special tokens included."""
    lora: Lora | None = None
    """Train low-rank adapters and the head instead of the whole model; `{}` takes the defaults. A learning rate of
    ten times the usual suits them. Before registration they are merged into the model."""

    @model_validator(mode="after")
    def _a_revision_is_the_hubs(self) -> Self:
        _refuse_revision(self.revision, self.base)
        return self


class NumWorkers(Settings):
    """A fixed (`2`) or elastic (`{min: 1, max: 4}`) number of data-parallel workers."""

    min: PositiveInt = 1
    """Training goes on with as few workers as this."""
    max: PositiveInt = 1
    """Training uses as many workers as this when the cluster has them."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them")
        return self


def _number_means_fixed(value: Any) -> Any:
    return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else value


Workers = Annotated[
    NumWorkers,
    BeforeValidator(_number_means_fixed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {
                    "type": "object",
                    "properties": {
                        "min": {"type": "integer", "minimum": 1},
                        "max": {"type": "integer", "minimum": 1},
                    },
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Train(Settings):
    """One fine-tuning."""

    epochs: PositiveInt = 3
    """Passes over the training split."""
    batch_size: PositiveInt = 32
    """Global batch: texts per optimiser step, whatever the number of workers."""
    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate of AdamW, reached after warm-up, then decayed linearly to zero."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; not applied to biases and normalisation weights."""
    warmup_ratio: Fraction = 0.1
    """Share of the optimiser steps over which the learning rate rises from zero."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the hardware has it natively, else fp16 with a gradient scaler on GPUs and fp32 on CPUs."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the new classification head, dropout and the order of the batches."""
    logging_steps: NonNegativeInt = 50
    """The training loss is recorded every so many optimiser steps, as their epoch ends; 0: of whole epochs alone. Each
    time a GPU waits, so 1 slows it down."""
    num_workers: Workers = NumWorkers()
    """Data-parallel workers of one fine-tuning: a number, or `{min, max}` for elastic training."""
    use_gpu: bool | None = None
    """Train on GPUs; when not given, if the cluster has any."""
    gpus_per_worker: PositiveFloat = 1.0
    """GPUs a worker holds; a fraction packs several one-worker trials on one GPU."""
    placement: Literal["pack", "spread"] = "pack"
    """Where the workers of one fine-tuning go, as far as there is room: `pack` on few nodes, where gradients take the
    shortest way; `spread` on many, where each worker has more of a node's memory and cores."""

    @model_validator(mode="after")
    def _fractions_are_for_one_worker(self) -> Self:
        if self.gpus_per_worker != int(self.gpus_per_worker) and self.num_workers.max > 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker} with num_workers {self.num_workers.max}: NCCL refuses two "
                "workers on one GPU; use a whole number, or num_workers 1"
            )
        return self

    def of_the_loop(self) -> dict[str, Any]:
        """What the train loop takes: all but how many workers there are and where they go."""
        return self.model_dump(exclude={"num_workers", "gpus_per_worker", "placement"})


class Gate(Settings):
    """When a candidate replaces the champion: a paired bootstrap on the same test rows."""

    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """What is compared, on the test split."""
    min_improvement: Annotated[float, Field(gt=-1.0, lt=1.0)] = 0.0
    """The confidence interval of (candidate - champion) must lie above this; below 0 tolerates a small loss."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Two-sided confidence level of that interval."""
    minimum: Fraction = 0.0
    """A candidate below this is never promoted, champion or not."""


class QuickCheck(Settings):
    """A text whose label the model must get right, before it is logged and again after loading."""

    text: Annotated[str, Field(min_length=1)]
    """What is classified."""
    label: str
    """What the model must answer."""


def _registrable_name(name: str) -> str:
    if not name.strip() or name in {".", ".."} or set(name) & set("/:"):
        raise ValueError(
            f"{name!r} cannot be registered; MLflow wants a name that is not empty and holds no '/' or ':'"
        )
    return name


class Registry(Settings):
    """How the winner is registered."""

    model: (
        Annotated[str, AfterValidator(_registrable_name), Field(json_schema_extra={"pattern": r"^[^/:]+$"})] | None
    ) = None
    """Registered model's name; when not given, the recipe's name."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] = "champion"
    """The alias that serving follows."""
    gate: Gate = Gate()
    """When the alias moves."""
    quick_checks: tuple[QuickCheck, ...] = ()
    """Texts with known labels, tried before and after logging."""


AuthMode = Literal["auto", "required", "none"]
"""When an endpoint asks for an API key."""

PoolKind = Literal["own", "shared"]
"""Whose replicas answer for an endpoint."""

_OF_OWN_REPLICAS = (
    "min_replicas",
    "max_replicas",
    "target_ongoing_requests",
    "downscale_to_zero_delay_s",
    "num_gpus",
)


class Serve(Settings):
    """The endpoint."""

    pool: PoolKind = "own"
    """Whose replicas answer: `own` ones, or the `shared` pool's, which holds many models and drops the least recently
    used; `tuneserve pool` bounds it, and the settings of replicas below are not given then."""
    min_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas kept while idle; 0 costs nothing."""
    max_replicas: PositiveInt = 2
    """Replicas under load."""
    target_ongoing_requests: PositiveFloat = 2.0
    """Batches in flight per replica that the autoscaler aims for."""
    downscale_to_zero_delay_s: NonNegativeFloat = 300.0
    """Idle time after which the last replica goes."""
    max_queued_requests: PositiveInt = 256
    """Texts that may wait; beyond that the answer is 429."""
    num_gpus: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """GPU that each replica holds: none, a whole one, or a fraction of one that several replicas share. A replica with
    a GPU runs the model's own weights in bf16 (fp16 where the GPU has none) and needs the extra `serve-gpu`."""
    auth: AuthMode = "auto"
    """Whether a request needs an API key (`tuneserve keys`); `auto`: unless the gateway listens on loopback alone."""
    request_log: RequestLog | None = None
    """Keep what the endpoint is asked and answers (`tuneserve requests`, `tuneserve replay`); `{}` takes the defaults.
    Not given: no text is kept anywhere."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self

    @model_validator(mode="after")
    def _replicas_are_its_own(self) -> Self:
        # By value and not by what was given: a recipe that was stored names every setting.
        defaults = {name: type(self).model_fields[name].default for name in _OF_OWN_REPLICAS}
        given = [f"{name} (default {value})" for name, value in defaults.items() if getattr(self, name) != value]
        if self.pool == "shared" and given:
            raise ValueError(
                f"with pool: shared there is no effect of {', '.join(given)}: `tuneserve pool` bounds its replicas; "
                "leave out what is named, or choose pool: own"
            )
        return self


def _sensible_name(name: str) -> str:
    if name in {"docs", "openapi", "healthz", "redoc"}:
        raise ValueError(f"{name!r} is a path of the gateway itself; choose another name")
    return name


class Recipe(Settings):
    """One job: the data, the model, how to train, search, register and serve it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"), AfterValidator(_sensible_name)]
    """Names the experiment, the registered model and the endpoint: lower-case letters, digits and dashes."""
    storage: str | None = None
    """Folder or URL for prepared data, checkpoints and results; when not given, TUNESERVE_STORAGE, the running
    cluster's, or `./outputs`."""
    data: Data
    """Where the labelled texts come from."""
    model: Model
    """The pretrained encoder to start from."""
    train: Train = Train()
    """One fine-tuning."""
    search: Search = Search()
    """The search over hyperparameters."""
    tracking: Tracking = Tracking()
    """Where runs are recorded."""
    registry: Registry = Registry()
    """How the winner is registered."""
    serve: Serve = Serve()
    """The endpoint."""

    @field_validator("search")
    @classmethod
    def _space_is_searchable(cls, search: Search, info: ValidationInfo) -> Search:
        problems = [problem for name, values in search.space.items() for problem in _space_problems(name, values)]
        model = info.data.get("model")
        if model is not None and model.lora is None and any(name.startswith(LORA) for name in search.space):
            problems.append("space searches lora settings, but the recipe has no model.lora; add `lora: {}` to model")
        if problems:
            raise ValueError("; ".join(problems))
        return search

    @property
    def registered_model(self) -> str:
        """The registered model's name."""
        return self.registry.model or self.name

    @property
    def experiment(self) -> str:
        """The MLflow experiment's name."""
        return self.tracking.experiment or self.name

    def with_params(self, params: Mapping[str, Any]) -> "Recipe":
        """The recipe with a trial's parameters in place."""
        train, lora = apply_params(self.train, self.model.lora, params)
        return self.model_copy(update={"train": train, "model": self.model.model_copy(update={"lora": lora})})

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial that may be suggested."""
        return max(int(value) for value in self._values("epochs"))

    @property
    def loras(self) -> tuple[Lora, ...]:
        """The recipe's adapters with each choice of target modules that may be suggested; none without adapters."""
        searched = self.search.space.get(f"{LORA}target_modules")
        if self.model.lora is None or searched is None:
            return () if self.model.lora is None else (self.model.lora,)
        own = (self.model.lora,) if searched.when else ()
        return (*own, *(self._with_lora(target_modules=value) for value in searched.bounds()))

    @property
    def largest_lora(self) -> Lora | None:
        """Adapters at least as large as those of any trial that may be suggested."""
        if self.model.lora is None:
            return None
        names = [lora.target_modules for lora in self.loras]
        everywhere = None if None in names else tuple(dict.fromkeys(name for each in names for name in each or ()))
        searched = self.search.space.get(f"{LORA}r")
        ranks = [int(value) for value in searched.bounds()] if searched else []
        return self._with_lora(r=max([self.model.lora.r, *ranks]), target_modules=everywhere)

    def _with_lora(self, **changes: Any) -> Lora:
        assert self.model.lora is not None
        return Lora.model_validate(self.model.lora.model_dump() | changes)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The smallest and the largest batch of any trial that may be suggested; one if they are the same."""
        values = [int(value) for value in self._values("batch_size")]
        return tuple(dict.fromkeys((min(values), max(values))))

    def _values(self, name: str) -> tuple[Any, ...]:
        """What bounds a setting of `train` over all trials; the recipe's own value where it is not always searched."""
        searched = self.search.space.get(name)
        own = () if searched and not searched.when else (getattr(self.train, name),)
        return (*(searched.bounds() if searched else ()), *own)


def apply_params(train: Train, lora: Lora | None, params: Mapping[str, Any]) -> tuple[Train, Lora | None]:
    """The settings with a trial's parameters in place: `lora.r` goes to the adapters, `epochs` to the training."""
    of_lora = {name.removeprefix(LORA): value for name, value in params.items() if name.startswith(LORA)}
    of_train = {name: value for name, value in params.items() if not name.startswith(LORA)}
    trained = Train.model_validate(train.model_dump() | of_train)
    return trained, lora and Lora.model_validate(lora.model_dump() | of_lora)


def _space_problems(name: str, values: Range) -> list[str]:
    """What `train` would refuse of a searched setting's bounds."""
    if name not in SEARCHABLE:
        return [f"space.{name} cannot be searched; choose from {', '.join(SEARCHABLE)}"]
    kind = "uniform" if values.uniform else "log_uniform" if values.log_uniform else None
    section: type[Settings] = Lora if name.startswith(LORA) else Train
    field = name.removeprefix(LORA)
    if kind and section.model_fields[field].annotation is int:
        return [f"space.{name} takes whole numbers, and {kind} draws fractions; use int, log_int or choice"]
    problems = []
    for value in values.bounds():
        try:
            section.model_validate({field: value})
        except ValidationError as error:
            problems.append(f"space.{name} holds {value}: {error.errors()[0]['msg']}")
    return problems
