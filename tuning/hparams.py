"""A study's trials as event files that TensorBoard's HParams plugin reads."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from tuning import results
from tuning.importance import varied
from tuning.results import COMPLETED

_METRICS = ("nll", "accuracy", "macro_f1")


def write_events(study: Path, folder: Path) -> Path:
    """Writes one TensorBoard run a trial, with its settings and validation figures.

    Args:
        study: the study's folder.
        folder: where the event files go; what is there is replaced.

    Raises:
        UsageError: the folder is no study, or TensorBoard is not installed.
    """
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import api_pb2, summary
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise UsageError(
            "TensorBoard is not installed.", remedy="pip install tensorboard, then try again."
        ) from None
    results.read_study(study)
    records = results.read_records(study)
    names = varied(records)

    def write(place: Path, time: float, *summaries: Any) -> None:
        writer = EventFileWriter(str(place))
        for one in summaries:
            # TensorBoard builds summaries with TensorFlow's classes where it finds them.
            own = summary_pb2.Summary.FromString(one.SerializeToString())
            writer.add_event(event_pb2.Event(wall_time=time, step=0, summary=own))
        writer.close()

    infos = []
    for name in names:
        given = [r.values[name] for r in records if name in r.values]
        numeric = all(isinstance(value, (int, float)) for value in given)
        kind = api_pb2.DATA_TYPE_FLOAT64 if numeric else api_pb2.DATA_TYPE_STRING
        infos.append(api_pb2.HParamInfo(name=name, type=kind))
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in _METRICS]
    with files.atomic_folder(folder, replace=True) as temporary:
        begun = min((_end(record) - record.seconds for record in records), default=0.0)
        write(temporary, begun, summary.experiment_pb(infos, metrics, time_created_secs=begun))
        for record in records:
            end = _end(record)
            values = {name: record.values[name] for name in names if name in record.values}
            started = summary.session_start_pb(values, start_time_secs=end - record.seconds)
            figures = [
                scalar_pb(tag, getattr(record, tag))
                for tag in _METRICS
                if getattr(record, tag) is not None
            ]
            done = record.status == COMPLETED
            status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
            ended = summary.session_end_pb(status, end_time_secs=end)
            write(temporary / f"{record.trial:04d}", end, started, *figures, ended)
    return folder


def _end(record: results.Record) -> float:
    if not record.finished:
        return record.seconds
    return datetime.datetime.fromisoformat(record.finished).timestamp()
