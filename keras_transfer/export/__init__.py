"""Exports that carry their own proof: each artefact is run on the runtime where it will live."""

# ruff: noqa: F401

from keras_transfer.export.exporter import ExportResult, VerifyResult, export_run, verify
from keras_transfer.export.formats import DEFAULT_FORMATS, FORMATS, Format, parse_formats
