"""The stub's answers as a deployment of Ray Serve: run by the Python of Ray's own environment, and by itself alone."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse


class Stub:
    """One replica, which takes every request that there is."""

    def __init__(self, pace_s: dict[str, float]) -> None:
        self._pace_s = pace_s

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse({})
        body = await request.json()
        pace_s, tokens = self._pace_s[body["model"]], int(body["max_tokens"])
        head = {"id": f"chatcmpl-{secrets.token_hex(16)}", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            frames = self._frames(head | {"object": "chat.completion.chunk"}, tokens, pace_s, usage=usage)
            return StreamingResponse(frames, media_type="text/event-stream")
        await asyncio.sleep(pace_s * (tokens - 1))
        message = {"role": "assistant", "content": "".join(f"stub.{i} " for i in range(tokens))}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
        return JSONResponse(head | {"object": "chat.completion", "choices": [choice], "usage": _usage(tokens)})

    async def _frames(self, head: dict[str, Any], tokens: int, pace_s: float, *, usage: bool) -> AsyncIterator[str]:
        def frame(delta: dict[str, str], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"

        clock = asyncio.get_running_loop().time
        due = clock()
        yield frame({"role": "assistant", "content": ""})
        for index in range(tokens):
            await asyncio.sleep(max(0.0, due - clock()))
            due += pace_s
            yield frame({"content": f"stub.{index} "})
        yield frame({}, "length")
        if usage:
            yield f"data: {json.dumps(head | {'choices': [], 'usage': _usage(tokens)})}\n\n"
        yield "data: [DONE]\n\n"


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "total_tokens": tokens + 8, "completion_tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=MS")
    options = parser.parse_args()
    pace_s = {name: float(ms) / 1000 for name, _, ms in (entry.partition("=") for entry in options.model)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ray.init(
        include_dashboard=False,
        num_cpus=2,
        object_store_memory=100 << 20,
        _temp_dir=os.environ["RAY_TMPDIR"],
        _node_ip_address="127.0.0.1",
        logging_level="ERROR",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": options.port, "access_log": False})
    deployment = serve.deployment(max_ongoing_requests=2000, ray_actor_options={"num_cpus": 0})(Stub)
    serve.run(deployment.bind(pace_s), route_prefix="/")
    signal.sigwait({signal.SIGTERM})
    ray.shutdown()


if __name__ == "__main__":
    main()
