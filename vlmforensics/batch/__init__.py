"""Batches: many pictures, one record each, resumable, on this machine or on a Ray cluster."""

from vlmforensics.batch.inputs import Job, find_inputs
from vlmforensics.batch.local import LocalEngine, default_workers
from vlmforensics.batch.run import ENGINES, make_engine, pending, run_batch
from vlmforensics.batch.tables import check_table, write_table
from vlmforensics.batch.work import Engine, LoadWorker, Record, Worker
from vlmforensics.report.ledger import Ledger, file_digest

__all__ = [
    "ENGINES",
    "Engine",
    "Job",
    "Ledger",
    "LoadWorker",
    "LocalEngine",
    "Record",
    "Worker",
    "check_table",
    "default_workers",
    "file_digest",
    "find_inputs",
    "make_engine",
    "pending",
    "run_batch",
    "write_table",
]
