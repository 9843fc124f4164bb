"""What a run returns is never worse on validation than its own head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_transfer import calibration
from keras_transfer.finetune import between

# Points on the line from the head-only weights (0) to the fine-tuned ones (1), as in WiSE-FT.
LINE = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Weights that a run could return, and how they do on validation.

    Attributes:
        name: ``head``, ``best epoch``, ``last epoch``, ``average``, or a point on the line such as
            ``0.5 to average``.
        temperature: fitted on validation.
        nll: validation NLL in nats after division by that temperature.
        accuracy: validation accuracy.
    """

    name: str
    temperature: float
    nll: float
    accuracy: float


def choose(
    start: Sequence[np.ndarray],
    ends: dict[str, Sequence[np.ndarray]],
    logits_of: Callable[[Sequence[np.ndarray]], np.ndarray],
    labels: np.ndarray,
) -> tuple[list[np.ndarray], tuple[Candidate, ...], np.ndarray]:
    """Chooses weights by validation NLL after fitting a temperature to each candidate.

    Raw NLL would punish the over-confidence of fine-tuned weights, which the shipped temperature
    removes anyway, and pick points too near the head. The line between the head-only and the
    fine-tuned weights follows WiSE-FT (Wortsman et al., 2022, "Robust fine-tuning of zero-shot
    models").

    Args:
        start: the weights with the converged head and the pretrained backbone.
        ends: fine-tuned weights by name.
        logits_of: validation logits ``[images, classes]`` of given weights.
        labels: validation labels, int64 ``[images]``.

    Returns:
        The chosen weights; all candidates, the chosen one first; and its logits.
    """
    judged: list[tuple[Candidate, list[np.ndarray], np.ndarray]] = []

    def judge(name: str, weights: Sequence[np.ndarray]) -> None:
        logits = logits_of(weights)
        temperature = calibration.fit_temperature(logits, labels)
        candidate = Candidate(
            name=name,
            temperature=temperature,
            nll=calibration.nll(logits, labels, temperature),
            accuracy=float((logits.argmax(axis=1) == labels).mean()),
        )
        judged.append((candidate, list(weights), logits))

    judge("head", start)
    for name, weights in ends.items():
        judge(name, weights)
    if ends:
        best, weights, _ = min(judged[1:], key=lambda one: one[0].nll)
        for share in LINE:
            judge(f"{share} to {best.name}", between(start, weights, share))
    # Equal NLLs keep the earlier candidate: the head, which changed least.
    judged.sort(key=lambda one: one[0].nll)
    _, weights, logits = judged[0]
    return list(weights), tuple(one[0] for one in judged), logits
