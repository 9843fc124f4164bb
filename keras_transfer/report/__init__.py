"""The page of a run: one file that asks nothing of the network."""

from keras_transfer.report.page import write_report

__all__ = ["write_report"]
