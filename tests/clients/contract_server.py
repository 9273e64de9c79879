"""A small server that speaks the interface: real sockets, real bodies, and faults on demand.

It parses bodies with other code than the client writes them with (safetensors, email, json), so an error in one does
not hide the same error in the other. It classifies by the nearest support image, so that answers mean something.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import io
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

MODEL = {
    "name": "omniglot",
    "version": "2",
    "digest": "ab" * 32,
    "description": "Characters",
    "learner": {"type": "gradient", "inner_steps": 5},
    "input": {"height": 28, "width": 28, "channels": 1, "mean": [0.9], "std": [0.3], "resize": "box"},
    "limits": {"max_way": 20, "max_support": 100, "max_queries": 8},
    "norm": "support",
    "measured": [
        {"data": "omniglot", "split": "test", "way": 5, "shot": 1, "queries": 15, "episodes": 2000, "norm": "support"}
        | {"accuracy": 0.988, "ci95": 0.001}
    ],
    "versions": ["1", "2"],
    "of_a_later_release": True,
}


@dataclass
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Answer:
    """One answer to send: a status, a JSON document or bytes, headers; or None for a cut connection."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


@dataclass
class Parsed:
    """What a body says, whatever its type."""

    labels: list[str]
    support: list[np.ndarray]
    queries: list[np.ndarray]
    options: dict[str, Any]


class Double:
    """State and behaviour of the test server; `faults` are answered first, in order."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, list[tuple[str, np.ndarray]]] = {}
        self.faults: list[Answer] = []
        self.received: list[Received] = []
        self.parsed: list[Parsed] = []
        self.max_queries = 8
        self.url = ""
        self.lock = threading.Lock()

    def fail(self, *statuses: int, **more: Any) -> None:
        self.faults += [Answer(status, problem(status), **more) for status in statuses]

    def answer(self, request: Received) -> Answer:
        with self.lock:
            self.received.append(request)
            if self.faults:
                return self.faults.pop(0)
            path, _, query = request.path.partition("?")
            for method, pattern, handler in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == request.method:
                    groups = [urllib.parse.unquote(group) for group in match.groups()]
                    return handler(self, request, dict(urllib.parse.parse_qsl(query)), *groups)
        return Answer(404, problem(404, "not_found"))

    # -- routes

    def ready(self, request: Received, params: dict[str, str]) -> Answer:
        return Answer(200, {"status": "ready"})

    def list_models(self, request: Received, params: dict[str, str]) -> Answer:
        return Answer(200, {"models": [self.model_json()]})

    def show_model(self, request: Received, params: dict[str, str], name: str) -> Answer:
        if name not in {"omniglot", "omniglot@2"}:
            return Answer(404, problem(404, "model_not_found"))
        return Answer(200, self.model_json())

    def adapt(self, request: Received, params: dict[str, str], name: str) -> Answer:
        if name not in {"omniglot", "omniglot@2"}:
            return Answer(404, problem(404, "model_not_found"))
        parsed = self.parse(request)
        return self.keep(list(zip(parsed.labels, parsed.support, strict=True)), parsed.options)

    def extend(self, request: Received, params: dict[str, str], session: str) -> Answer:
        if session not in self.sessions:
            return Answer(404, problem(404, "session_not_found"))
        parsed = self.parse(request)
        return self.keep(self.kept[session] + list(zip(parsed.labels, parsed.support, strict=True)), parsed.options)

    def classify(self, request: Received, params: dict[str, str], session: str) -> Answer:
        if session not in self.sessions:
            return Answer(404, problem(404, "session_not_found"))
        return self.predict(session, self.kept[session], self.parse(request).queries)

    def classify_once(self, request: Received, params: dict[str, str], name: str) -> Answer:
        parsed = self.parse(request)
        return self.predict("s_once", list(zip(parsed.labels, parsed.support, strict=True)), parsed.queries)

    def list_sessions(self, request: Received, params: dict[str, str]) -> Answer:
        known = [one for one in self.sessions.values() if params.get("model") in {None, one["model"]}]
        start, size = int(params.get("cursor", 0)), int(params["limit"])
        following = str(start + size) if start + size < len(known) else None
        return Answer(200, {"sessions": known[start : start + size], "next_cursor": following})

    def show_session(self, request: Received, params: dict[str, str], session: str) -> Answer:
        if session not in self.sessions:
            return Answer(404, problem(404, "session_not_found"))
        return Answer(200, self.sessions[session] | {"cached": True})

    def delete_session(self, request: Received, params: dict[str, str], session: str) -> Answer:
        if self.sessions.pop(session, None) is None:
            return Answer(404, problem(404, "session_not_found"))
        return Answer(204)

    # -- what the routes share

    def model_json(self) -> dict[str, Any]:
        return MODEL | {"limits": {"max_way": 20, "max_support": 100, "max_queries": self.max_queries}}

    def parse(self, request: Received) -> Parsed:
        kind = request.headers["content-type"].partition(";")[0]
        parsed = {"application/json": of_json, "multipart/form-data": of_multipart}.get(kind, of_tensors)(request)
        self.parsed.append(parsed)
        return parsed

    def keep(self, examples: list[tuple[str, np.ndarray]], options: dict[str, Any]) -> Answer:
        examples = sorted(examples, key=lambda one: (one[0], one[1].tobytes()))
        labels = sorted({label for label, _ in examples})
        digest = hashlib.sha256(b"".join(label.encode() + b"\0" + pixels.tobytes() for label, pixels in examples))
        identity = f"s_{digest.hexdigest()[:32]}"
        known = identity in self.sessions
        self.kept[identity] = examples
        self.sessions[identity] = {
            "id": identity,
            "model": "omniglot",
            "version": "2",
            "model_digest": "ab" * 32,
            "labels": labels,
            "support_size": len(examples),
            "counts": {label: sum(one == label for one, _ in examples) for label in labels},
            "created_at": "2026-11-21T09:30:00.000Z",
            "expires_at": "2026-11-22T09:30:00.000Z",
            "ttl_seconds": int(options.get("ttl_seconds", 86400)),
            "durability": options.get("durability", "durable"),
            "cached": known,
        }
        return Answer(200 if known else 201, self.sessions[identity])

    def predict(self, session: str, support: list[tuple[str, np.ndarray]], queries: list[np.ndarray]) -> Answer:
        if len(queries) > self.max_queries:
            return Answer(422, problem(422, "too_many_queries"))
        labels = sorted({label for label, _ in support})
        predictions = []
        for query in queries:
            near = {}
            for label, image in support:
                distance = float(np.abs(image - query).mean()) if image.shape == query.shape else 1e3
                near[label] = min(distance, near.get(label, 1e9))
            weights = {label: 2.0 ** -near[label] for label in labels}
            total = sum(weights.values()) or 1.0
            probabilities = {label: weight / total for label, weight in weights.items()}
            best = max(probabilities, key=lambda label: probabilities[label])
            predictions.append(
                {"label": best, "probability": probabilities[best], "probabilities": probabilities, "unknown": False}
            )
        return Answer(200, {"session": session, "model": "omniglot", "version": "2", "predictions": predictions})


ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/readyz", Double.ready),
    ("GET", "/v1/models", Double.list_models),
    ("GET", "/v1/models/([^/]+)", Double.show_model),
    ("POST", "/v1/models/([^/]+)/sessions", Double.adapt),
    ("POST", "/v1/models/([^/]+)/classify", Double.classify_once),
    ("POST", "/v1/sessions/([^/]+)/support", Double.extend),
    ("POST", "/v1/sessions/([^/]+)/classify", Double.classify),
    ("GET", "/v1/sessions", Double.list_sessions),
    ("GET", "/v1/sessions/([^/]+)", Double.show_session),
    ("DELETE", "/v1/sessions/([^/]+)", Double.delete_session),
]


def problem(status: int, code: str = "some_code", **more: Any) -> dict[str, Any]:
    return {
        "type": f"urn:kshot:problem:{code}",
        "title": "Title",
        "status": status,
        "detail": f"What went wrong with {code}.",
        "code": code,
        "request_id": "r1",
    } | more


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=np.float64)


def of_json(request: Received) -> Parsed:
    document = json.loads(request.body)
    support, queries = document.pop("support", []), document.pop("queries", [])
    images = [
        [pixels_of(base64.b64decode(one["image"], validate=True)) for one in group] for group in (support, queries)
    ]
    return Parsed([one["label"] for one in support], images[0], images[1], document)


def of_multipart(request: Received) -> Parsed:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    parsed = Parsed([], [], [], {})
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(content, bytes)
        name = name.encode("utf-8", "surrogateescape").decode("utf-8")
        if part.get_filename() is None:
            parsed.options[name] = content.decode()
        elif name == "queries":
            parsed.queries.append(pixels_of(content))
        else:
            parsed.labels.append(name.removeprefix("support[").removesuffix("]"))
            parsed.support.append(pixels_of(content))
    return parsed


def of_tensors(request: Received) -> Parsed:
    tensors = safetensors.numpy.load(request.body)
    size = int.from_bytes(request.body[:8], "little")
    metadata = json.loads(request.body[8 : 8 + size]).get("__metadata__", {})
    labels = json.loads(metadata.pop("labels", "[]"))
    support = [image.astype(np.float64) for image in tensors.get("support", [])]
    queries = [image.astype(np.float64) for image in tensors.get("queries", [])]
    return Parsed([labels[target] for target in tensors.get("targets", [])], support, queries, metadata)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: Double

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.double.answer(Received(self.command, self.path, headers, body, time.monotonic()))
        time.sleep(answer.delay)
        if answer.cut:
            self.close_connection = True
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        content = b"" if answer.status == 204 else content
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *args: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    """Clients that hang up while an answer is on its way are what some tests are about."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def listening(double: Double, port: int = 0) -> QuietServer:
    server = QuietServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"double": double}))
    double.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server
