"""A study's trials as event files that TensorBoard's HParams plugin reads."""

from __future__ import annotations

import datetime
from pathlib import Path

from keras_transfer.base import files
from keras_transfer.base.errors import UsageError
from tuning import results


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
    names = results.varied(records)
    with files.atomic_folder(folder, replace=True) as temporary:
        for record in records:
            done = record.finished and datetime.datetime.fromisoformat(record.finished).timestamp()
            end = float(done or record.seconds)
            given = {name: record.values[name] for name in names if name in record.values}
            failed = record.status == results.FAILED
            status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
            writer = EventFileWriter(str(temporary / f"{record.trial:04d}"))
            for one in (
                summary.session_start_pb(given, start_time_secs=end - record.seconds),
                *(scalar_pb(tag, value) for tag, value in record.metrics().items()),
                summary.session_end_pb(status, end_time_secs=end),
            ):
                # TensorBoard builds summaries with TensorFlow's classes where it finds them.
                own = summary_pb2.Summary.FromString(one.SerializeToString())
                writer.add_event(event_pb2.Event(wall_time=end, step=0, summary=own))
            writer.close()
    return folder
