"""gunicorn's settings for a gateway that counts what it does; `/counts` tells. See `test_operation_counts`."""

from __future__ import annotations

import gc
import runpy
import socket
from collections import Counter
from typing import Any

from tests.stack import GATEWAY_CONFIG

globals().update({name: value for name, value in runpy.run_path(str(GATEWAY_CONFIG)).items() if name[0] != "_"})

# Of lua/admit.lua; none of the scripts that run beside requests has as many.
_ADMIT_KEYS = 5


def post_worker_init(worker: Any) -> None:
    import gevent.socket
    import hiredis
    import orjson

    from tasks import messages
    from tasks.requests import stream_reader

    counts: Counter[str] = Counter()
    loads, pack, send = orjson.loads, hiredis.pack_command, gevent.socket.socket.send
    decode = messages.decode_record

    def counting_loads(data: Any) -> Any:
        counts["json parses"] += 1
        return loads(data)

    def counting_pack(args: Any) -> Any:
        name = args[0] if isinstance(args[0], str) else args[0].decode()
        counts["ADMIT" if name == "EVALSHA" and args[2] == _ADMIT_KEYS else name] += 1
        return pack(args)

    def counting_send(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts["writes to clients" if self.family == socket.AF_INET else "writes to redis"] += 1
        return send(self, *args, **kwargs)

    def counting_decode(flat: Any, record_id: bytes) -> Any:
        counts[f"records {flat[flat.index(b'k') + 1].decode()}"] += 1
        return decode(flat, record_id)

    orjson.loads = counting_loads
    vars(hiredis)["pack_command"] = counting_pack
    gevent.socket.socket.send = counting_send
    vars(stream_reader)["decode_record"] = counting_decode

    @worker._app.get("/counts")  # type: ignore[untyped-decorator]  # gunicorn has no types
    def tell() -> dict[str, int]:
        return dict(counts) | {"objects frozen": gc.get_freeze_count(), "objects": len(gc.get_objects())}
