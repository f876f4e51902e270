"""Web server with graceful shutdown: a WSGI application that is still to be loaded -> waitress on a port.

The port answers `/healthz` with "loading" (503) until the application is there. A stop signal lets the requests at hand finish,
refusing new ones.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.finite_json import json_text

_STOP_SECONDS = 20.0  # how long requests at hand may take after a stop signal
_IDLE_SECONDS = 60  # after which a silent connection is closed, and one whose request is not there whole
_LOOK_SECONDS = 5  # between two looks for such connections
_MOST_CONNECTIONS = 512  # so many that a hundred silent ones keep nobody out; a process may often open 1,024 files


class ReadinessGate:
    """WSGI in front of the application: 503 until it is there and once the service stops; counts what is being answered."""

    def __init__(self) -> None:
        self._app: Any = None
        self._closing = False
        self._at_hand = 0
        self._changed = threading.Condition()

    def open(self, app: Any) -> None:
        """Let requests through to `app`."""
        with self._changed:
            self._app = app

    def close(self, seconds: float) -> None:
        """Refuse new requests and wait until those at hand are answered."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._at_hand == 0, seconds)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        with self._changed:  # seen and counted at once, so that `close` waits for whatever was let in
            app, closing = self._app, self._closing
            refused = app is None or closing
            self._at_hand += not refused
        if refused:
            return self._not_ready(start_response, closing)
        try:
            return _Counted(app(environ, start_response), self._count_answered)
        except BaseException:
            self._count_answered()
            raise

    @staticmethod
    def _not_ready(start_response: Any, closing: bool) -> list[bytes]:
        body = json_text({"status": "stopping" if closing else "loading"}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Retry-After", "5")]
        if not closing:
            headers.append(("Refresh", "3"))  # a browser asks again by itself
        start_response("503 Service Unavailable", headers)
        return [body]

    def _count_answered(self) -> None:
        with self._changed:
            self._at_hand -= 1
            self._changed.notify_all()


class _Counted:
    """The body of an answer; says when it is through."""

    def __init__(self, body: Iterable[bytes], done: Callable[[], None]) -> None:
        self._body = body
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._done()


def _deadline_channel() -> type:
    """waitress's connection, whose time to be idle counts from the first byte of a request until it is there whole.

    As it is, every byte starts it anew, and whoever sends one a minute holds a connection for ever.
    """
    from waitress.channel import HTTPChannel

    class DeadlineChannel(HTTPChannel):
        last_activity: float
        begun: float | None = None

        def received(self, data: bytes) -> bool:
            self.begun = self.begun or self.last_activity
            answered = bool(super().received(data))
            if self.request is None:  # nothing is left unfinished
                self.begun = None
            else:
                self.last_activity = self.begun
            return answered

    return DeadlineChannel


class WebServer:
    """waitress with `threads` threads on one address; port 0 picks a free one."""

    def __init__(
        self, host: str, port: int, threads: int, request_bytes: int, keep_proxy_headers: bool = False
    ) -> None:
        """Bind; raises IdClipError when the address cannot be had.

        keep_proxy_headers: leave X-Forwarded-* to the application (see `TrustedProxies`).
        """
        import waitress

        # It warns of every request that has to wait for a thread, which is no fault and fills the log.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.gate = ReadinessGate()
        sockets: dict[int, Any] = {}
        try:
            self._server = waitress.create_server(
                self.gate,
                map=sockets,
                host=host,
                port=port,
                threads=threads,
                ident="",
                max_request_body_size=request_bytes,
                channel_timeout=_IDLE_SECONDS,
                cleanup_interval=_LOOK_SECONDS,
                connection_limit=_MOST_CONNECTIONS,
                asyncore_use_poll=True,  # select() knows no file beyond 1,024
                clear_untrusted_proxy_headers=not keep_proxy_headers,
            )
        except (OSError, ValueError) as error:
            raise IdClipError(
                f"the service cannot listen on {host}:{port}: choose another --port or --host ({error})"
            ) from None
        for listening in sockets.values():  # a name may have several addresses
            if hasattr(listening, "channel_class"):
                listening.channel_class = _deadline_channel()
        self._thread = threading.Thread(target=self._server.run, name="web server", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        listening = getattr(self._server, "effective_listen", None)
        return int(listening[0][1] if listening else self._server.effective_port)

    def start(self) -> None:
        """Answer from now on, in a thread."""
        self._thread.start()

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Finish what is at hand, then give the port back."""
        self.gate.close(seconds)
        time.sleep(0.1)  # the last answer is with the server's loop, which sends it
        self._server.task_dispatcher.shutdown(timeout=1)
        with contextlib.suppress(OSError):
            self._server.close()

    def run_until_stopped(self) -> None:
        """Wait for SIGTERM or SIGINT, then stop."""
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        while not stopped.wait(1):
            if not self._thread.is_alive():
                raise RuntimeError("the web server's thread has ended")
        self.stop()
