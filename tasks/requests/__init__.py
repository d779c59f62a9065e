"""A request in Redis, whoever has it: written, queued, given back, ended, read."""
