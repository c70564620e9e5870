"""A real MLflow server, and a proxy before it that does to answers what networks and servers do."""

import socket
import socketserver
import struct
import threading
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler

from mlflow_server import SECONDS, MlflowServer

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
BODIES = {
    "garbage": b"<html>\xff\x00 sign in",
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
}  # in place of an answer


class RealServer(MlflowServer):
    def recorded(self, experiment: str) -> list[tuple[str, str, list[tuple]]]:
        """(name, status, (metric, step, value, time) of every point) of every run that is not deleted."""
        runs = self.rows(
            "select run_uuid, runs.name, status from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'",
            experiment,
        )
        points = "select key, step, value, timestamp from metrics where run_uuid = ? order by key, step"
        return [(name, status, self.rows(points, run)) for run, name, status in runs]


class BadServer:
    """The address to use in place of a real server's. `fault` names what is done at the moment, None for nothing:

    a number: that HTTP status in place of the answer; `garbage`, `list`, `object`, `null`: such a body; these do not reach
    the server. `held`: the request reaches the server after `delay` s, or when `over` is set. `cut`: the server does its work,
    and half the answer comes back. `late`: the answer comes after `delay` s. `silent`: nothing comes back.
    `endless`: a body without end. `dripping`: the same, a byte at a time.
    `only`: those requests alone whose path has this in it. `count`: so many answers were spoilt.
    """

    def __init__(self, real: RealServer):
        self.real, self.fault, self.only, self.delay, self.count = real, None, "", 0.0, 0
        self.heard: list[str] = []  # Authorization headers
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                with suppress(ConnectionError, TimeoutError, ValueError):  # a client that hangs up
                    super().handle_one_request()

            def log_message(self, *_):
                pass

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.heard.append(self.headers.get("Authorization") or "")
                outer.answer(self, body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

        class Threads(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def well(self) -> None:
        self.fault = None
        self.over.set()
        self.over = threading.Event()

    def stop(self) -> None:
        self.well()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler, body: bytes) -> None:
        fault = self.fault if self.only in handler.path else None
        over = self.over
        self.count += fault is not None
        handler.close_connection = True
        if isinstance(fault, int):
            echo = f"{handler.path} {dict(handler.headers)}".encode()  # as servers do that are set up to debug
            self._send(handler, fault, {"Content-Type": "text/plain", "Retry-After": "3600"}, echo)
        elif fault in BODIES:
            self._send(handler, 200, {"Content-Type": "application/json"}, BODIES[fault])
        elif fault == "silent":
            over.wait(SECONDS)
        elif fault in ("endless", "dripping"):
            handler.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n"
            )
            while not over.is_set():
                handler.wfile.write(b"1" * 2**20 if fault == "endless" else b"1")
                if fault == "dripping":
                    over.wait(0.1)
        else:
            if fault == "held":
                over.wait(self.delay)
            status, headers, answer = self._ask(handler, body)
            if fault == "late":
                over.wait(self.delay)
            self._send(handler, status, headers, answer, cut=fault == "cut")

    def _ask(self, handler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.real.port, timeout=SECONDS)
        try:
            kept = {name: value for name, value in handler.headers.items() if name.lower() not in HOP_BY_HOP | {"host"}}
            connection.request(handler.command, handler.path, body, kept)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    @staticmethod
    def _send(handler, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:  # by a reset: what is on its way is lost
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
