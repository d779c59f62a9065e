"""Celery's own options, the same for every process. No logic; docs/ARCHITECTURE.md says why."""

imports = ("tasks.serving.inference", "tasks.loader_task", "tasks.operator_tasks")

# So that `celery call` needs no --queue.
task_routes = ["tasks.bulk.calling:route", {"tasks.loader.*": {"queue": "loader"}}]

# As often as CELERITY_LOADER_TICK_S says (tasks.app). A tick that comes late sees what a later one sees.
beat_scheduler = "tasks.ticker:Ticker"
beat_schedule = {"loader": {"task": "tasks.loader.tick", "schedule": 2.0}}
task_default_queue = "default"
task_create_missing_queues = True
timezone = "UTC"

# Answers travel on streams. Only what operators call by name says otherwise and has a result (tasks.app).
task_ignore_result = True
result_expires = 3600
redis_socket_timeout = 5
redis_socket_connect_timeout = 3
# A result that cannot be written for so long is given up: the worker that has it has more to do.
result_backend_transport_options = {"retry_policy": {"timeout": 5.0}}
task_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]
event_serializer = "json"

# A message is acknowledged when its answer is written, and given to another worker when its own died before.
task_acks_late = True
task_reject_on_worker_lost = True
task_acks_on_failure = True
task_acks_on_timeout = True

# Nothing waits inside a worker: it takes a message only while its pool says there is room.
worker_prefetch_multiplier = 0
worker_disable_prefetch = True
worker_disable_rate_limits = True
worker_consumer = "workers.host.consumer:SafeConsumer"
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_prefetch_count_reduction = False
worker_pool_restarts = False
worker_hijack_root_logger = False
worker_redirect_stdouts = False
# A monitor (Flower) switches task events on while it watches; without one they cost a fifth of the worker's time.
worker_send_task_events = False
task_send_sent_event = False
task_track_started = False

broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# An error that Redis answers with (it is full, it loads, it may only be read) passes; it ends no worker.
broker_channel_error_retry = True
broker_pool_acquire_timeout = 5
broker_transport_options = {
    "priority_steps": [0, 9],
    # kombu itself gives nothing back by age: a worker's messages stand in keys of its own
    # (tasks.app), and whoever sees that it has died restores them (tasks.requests.unacked).
    "visibility_timeout": 365 * 86400,
    "unacked_restore_interval": 86400,
    "unacked_mutex_expire": 10,
    # A silent Redis holds up the hub for this long at most; a BRPOP that got no answer is given up
    # after `workers.host.transport.POP_S` and twice the interval.
    "socket_timeout": 3,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 2,
    "body_encoding": "utf-8",
}

# Ours: what lives beside the tasks in an engine worker (workers.host.resident).
engine_resident = "tasks.serving.engine_worker:EngineWorker"
