"""Jobs, and everything that passes between processes through Redis or Celery."""
