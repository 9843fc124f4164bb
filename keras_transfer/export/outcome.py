"""What exporting and verifying give back."""

import dataclasses
from pathlib import Path
from typing import Any

from keras_transfer.export import proof
from keras_transfer.modalities import modality


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        path: the export folder.
        parity: the contents of its ``parity.json``.
    """

    path: Path
    parity: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every artefact that was asked for was converted and behaves as the model."""
        return bool(self.parity["passed"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``path`` and everything in ``parity.json``."""
        return {"path": str(self.path), **self.parity}

    def render(self) -> str:
        """The table of verdicts, as text."""
        moved, noun = self.parity["mediapipe"], modality(self.parity["modality"]).NOUN
        heading = (
            f"{self.parity['images']} test {noun}s; accuracy of the trained "
            f"model on them {self.parity['reference']['accuracy']:.3f}; {moved['way']} by "
            f"MediaPipe it gives the same answer on {100 * moved['agreement']:.1f} %"
        )
        return f"{heading}\n{proof.table(list(self.parity['artefacts'].values()))}"

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{k} {v['verdict']}" for k, v in self.parity["artefacts"].items())
        return f"ExportResult({str(self.path)!r}: {verdicts})"


@dataclasses.dataclass(frozen=True)
class VerifyResult:
    """What repeating the proof of an export folder came to.

    Attributes:
        path: the export folder.
        result: what ``verify/verify.py --json`` prints: ``passed``, ``exit_code`` (0 passed, 1
            failed, 2 no runtime of any artefact is installed), ``files`` and ``artefacts``.
    """

    path: Path
    result: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every file is as exported and every artefact that could be run passed."""
        return bool(self.result["passed"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``path`` and ``result``."""
        return {"path": str(self.path), **self.result}

    def render(self) -> str:
        """The table of verdicts, below one line for each file that is not as it should be."""
        return proof.report(self.result)

    def __repr__(self) -> str:
        return f"VerifyResult({str(self.path)!r}: {'passed' if self.passed else 'failed'})"
