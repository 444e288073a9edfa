"""Batches: many pictures, one record each, resumable, on this machine or on a Ray cluster."""

from vlmforensics.batch.exports import write_conversations, write_masks
from vlmforensics.batch.gallery import write_gallery
from vlmforensics.batch.inputs import Inputs, Job
from vlmforensics.batch.local import LocalEngine, default_workers
from vlmforensics.batch.run import ENGINES, make_engine, run_batch
from vlmforensics.batch.summary import Summary
from vlmforensics.batch.tables import check_table, write_table
from vlmforensics.batch.topk import explain_most_suspect
from vlmforensics.batch.work import Engine, LoadWorker, Record, Worker
from vlmforensics.report.ledger import Ledger, file_digest

__all__ = [
    "ENGINES",
    "Engine",
    "Inputs",
    "Job",
    "Ledger",
    "LoadWorker",
    "LocalEngine",
    "Record",
    "Summary",
    "Worker",
    "check_table",
    "default_workers",
    "explain_most_suspect",
    "file_digest",
    "make_engine",
    "run_batch",
    "write_conversations",
    "write_gallery",
    "write_masks",
    "write_table",
]
