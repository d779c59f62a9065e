"""Models, engines and the processes that hold them. Knows no HTTP; Celery only in `workers.host`."""
