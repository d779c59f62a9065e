"""Bulk work: files of requests, the ledger of their lines, and the feeder that keeps the queues supplied.

Whoever wants bulk work done goes to the `desk`. What was accepted stands in the `ledger`,
line by line, until its result is recorded, exactly once; Redis holds only the few lines
that are queued or run.
"""
