"""A LitServe server without kshot, for the contract tests: what it does is chosen by JSON on the command line.

    python stock_server.py PORT '{"api": {...}, "server": {...}, "run": {...}, "asynchronous": false}'

A request {"do": NAME, ...} names one of the methods below.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

from fastapi import HTTPException
from litserve import LitAPI, LitServer


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("cannot cross")
        self.lock = threading.Lock()


def act(request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "echo":
            return {"pid": os.getpid()}
        case "sleep":
            time.sleep(request["seconds"])
            return {"pid": os.getpid()}
        case "refuse":
            raise HTTPException(503, "come back", headers={"Retry-After": "7"})
        case "fail":
            raise ValueError("bad item")
        case _:
            raise Unpicklable


class Plain(LitAPI):
    def predict(self, x: Any) -> Any:
        return act(x) if isinstance(x, dict) else [act(one) for one in x]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output


class Asynchronous(LitAPI):
    # Without annotations: LitServe makes the route's types of them.
    async def decode_request(self, request):
        return request

    async def predict(self, x: Any) -> Any:
        if x["do"] == "sleep":
            await asyncio.sleep(x["seconds"])
            return {"pid": os.getpid()}
        return act(x)

    async def encode_response(self, output):
        return output


def main() -> None:
    port, options = int(sys.argv[1]), json.loads(sys.argv[2])
    kind = Asynchronous if options.get("asynchronous") else Plain
    api = kind(enable_async=kind is Asynchronous, **options.get("api", {}))
    server = LitServer(api, accelerator="cpu", **options.get("server", {}))
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, **options.get("run", {}))


if __name__ == "__main__":
    main()
