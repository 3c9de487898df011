"""What became of a request's texts, as those see it who watch the gateway: the request log, and the drift figures."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from serve.batching import Answer, Text

if TYPE_CHECKING:
    from serve.endpoints import Endpoints, EndpointSpec


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """One request whose texts were read, and its end."""

    endpoint: str
    spec: "EndpointSpec"
    """What the endpoint was deployed with when the request came."""
    protocol: str
    request_id: str
    at: datetime
    """When the request came, UTC."""
    latency_s: float
    """From then to the answer."""
    status: int
    """200, or that of the refusal in our own protocol: others tell it otherwise."""
    version: int | None
    """The version that answered, or, of a refusal, the one that would have."""
    texts: Sequence[Text]
    answers: Sequence[Answer]
    """One for each text; none when the request was refused."""


class Observer(Protocol):
    """Watches the gateway. Both methods run on its event loop."""

    def answered(self, seen: Answered) -> None:
        """A request has its answer, which is about to go out: this must neither block nor take long."""

    async def follow(self, endpoints: "Endpoints") -> None:
        """Runs beside the gateway until it is cancelled, and then puts its things in order."""


def tell(observers: Sequence[Observer], seen: Answered) -> None:
    """Tells all of them; a request is answered all the same when one who watches fails."""
    for observer in observers:
        try:
            observer.answered(seen)
        except Exception as error:
            logger.error("%s of %r failed", type(observer).__name__, seen.endpoint, exc_info=error)
