"""The Celery worker process that holds an engine: its coroutine pool, its consumer, its guards."""
