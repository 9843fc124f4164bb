"""What a run returns is never worse on validation than its own head."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_transfer.base.task import task_of
from keras_transfer.learn import calibration
from keras_transfer.learn.suffix import between

# Points on the line from the head-only weights (0) to the fine-tuned ones (1), as in WiSE-FT.
LINE = (0.25, 0.5, 0.75)
# Standard errors by which another candidate must be ahead of a head of few labels: what is best of
# a dozen on ten validation images is so by chance.
_SURE = 3.0

NewHead = tuple[Sequence[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Weights that a run could return, and how they do on validation.

    Attributes:
        name: ``head``, ``best epoch``, ``last epoch``, ``average``; a point on the line from the
            head to one of these, such as ``0.5 to average``; or one of these with a new head, such
            as ``average, new head`` and ``average, 0.5 to new head``.
        temperature: fitted on validation.
        nll: validation NLL in nats after division by that temperature, the classes weighed as in
            training.
        accuracy: validation accuracy; of several labels at a probability of 0.5.
    """

    name: str
    temperature: float
    nll: float
    accuracy: float


Judged = tuple[Candidate, list[np.ndarray], np.ndarray]


def choose(
    start: Sequence[np.ndarray],
    ends: Mapping[str, Sequence[np.ndarray]],
    logits_of: Callable[[Sequence[np.ndarray]], np.ndarray],
    labels: np.ndarray,
    new_head: Callable[[Sequence[np.ndarray]], Callable[[], NewHead]] | None = None,
    image_weights: np.ndarray | None = None,
    mix: Callable[[Sequence[np.ndarray], Sequence[np.ndarray], float], list[np.ndarray]] = between,
    head: tuple[Sequence[np.ndarray], np.ndarray, float] | None = None,
) -> tuple[list[np.ndarray], tuple[Candidate, ...], np.ndarray]:
    """Chooses weights by validation NLL after fitting a temperature to each candidate.

    Raw NLL would punish the over-confidence of fine-tuned weights, which the shipped temperature
    removes anyway. The line between the head-only and the fine-tuned weights follows WiSE-FT
    (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models"). A head that is solved to its
    optimum on the fine-tuned features generalises better than the one that gradient steps left
    there, and a mean of the two is better calibrated than either.

    Args:
        start: the weights with the converged head and the pretrained backbone.
        ends: fine-tuned weights by name.
        logits_of: validation logits ``[images, classes]`` of given weights.
        labels: validation labels, of either task.
        new_head: given weights, begins to solve a linear head again on their features, and returns
            what waits for the same weights with that head, and for their validation logits; None
            where the head is not linear.
        image_weights: of each image in NLL and temperature, see ``Task.weights``, or None.
        mix: weights on the line from the first to the second, where a share of it lies between.
        head: of few labels: weights, validation logits, temperature. It must surely be beaten.

    Returns:
        The chosen weights; all candidates, the chosen one first; and its logits.
    """

    def judged(
        name: str, weights: Sequence[np.ndarray], logits: np.ndarray, temperature: float = 0.0
    ) -> Judged:
        temperature = temperature or calibration.fit_temperature(logits, labels, image_weights)
        loss = calibration.nll(logits, labels, temperature, image_weights)
        right = float(task_of(labels).hits(logits, labels).mean())
        return Candidate(name, temperature, loss, right), list(weights), logits

    found = [judged("head", *(head or (start, logits_of(start))))]
    found += [judged(name, w, logits_of(w)) for name, w in ends.items()]
    if ends:
        best, weights, logits = min(found[1:], key=lambda one: one[0].nll)
        solving = new_head and new_head(weights)
        for share in LINE:
            mixed = mix(start, weights, share)
            found.append(judged(f"{share} to {best.name}", mixed, logits_of(mixed)))
        if solving is not None:
            solved, solved_logits = solving()
            found.append(judged(f"{best.name}, new head", solved, solved_logits))
            for share in LINE:
                # Only the linear head differs, so that the logits lie on a line as well.
                name, mixed = f"{best.name}, {share} to new head", between(weights, solved, share)
                found.append(judged(name, mixed, (1 - share) * logits + share * solved_logits))
    found = _ranked(found, labels, sure=head is not None)
    return found[0][1], tuple(one[0] for one in found), found[0][2]


def _ranked(found: list[Judged], labels: np.ndarray, sure: bool) -> list[Judged]:
    """The best first; the head, which stands first, where it must be surely beaten and is not."""
    # Equal NLLs keep the earlier candidate: the head, which changed least.
    ranked = sorted(found, key=lambda one: one[0].nll)
    best, head = (
        calibration.losses(logits, labels, one.temperature)
        for one, _, logits in (ranked[0], found[0])
    )
    if sure and calibration.ahead(best, head) <= _SURE:
        ranked = [found[0], *(one for one in ranked if one is not found[0])]
    return ranked
