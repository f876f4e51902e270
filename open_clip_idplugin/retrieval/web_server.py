"""A Flask application on a port: the waitress server, with a door that is open from the start and closes slowly.

Role: a way to load an application -> a running service. The port answers `/healthz` with "loading" (503) until the
application is there. A stop signal lets the requests at hand finish, refusing new ones.
"""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from open_clip_idplugin.errors import IdClipError

_STOP_SECONDS = 20.0  # how long requests at hand may take after a stop signal
_IDLE_SECONDS = 60  # after which a silent connection is closed


class Door:
    """A WSGI application in front of the real one, which counts what is being answered."""

    def __init__(self) -> None:
        self._app: Any = None
        self._closing = False
        self._at_hand = 0
        self._changed = threading.Condition()

    def open(self, app: Any) -> None:
        """Let requests through to `app`."""
        self._app = app

    def close(self, seconds: float) -> None:
        """Refuse new requests and wait until those at hand are answered."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._at_hand == 0, seconds)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        if self._app is None or self._closing:
            return self._not_ready(start_response)
        with self._changed:
            self._at_hand += 1
        try:
            return _Counted(self._app(environ, start_response), self._done)
        except BaseException:
            self._done()
            raise

    def _not_ready(self, start_response: Any) -> list[bytes]:
        body = json.dumps({"status": "stopping" if self._closing else "loading"}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Retry-After", "5")]
        if not self._closing:
            headers.append(("Refresh", "3"))  # a browser asks again by itself
        start_response("503 Service Unavailable", headers)
        return [body]

    def _done(self) -> None:
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


class WebServer:
    """waitress with `threads` threads on one address; port 0 picks a free one."""

    def __init__(self, host: str, port: int, threads: int, request_bytes: int) -> None:
        """Bind; raises IdClipError when the address cannot be had."""
        import waitress

        self.door = Door()
        try:
            self._server = waitress.create_server(
                self.door,
                host=host,
                port=port,
                threads=threads,
                ident="",
                max_request_body_size=request_bytes,
                channel_timeout=_IDLE_SECONDS,
                clear_untrusted_proxy_headers=True,
            )
        except (OSError, ValueError) as error:
            raise IdClipError(
                f"the service cannot listen on {host}:{port}: choose another --port or --host ({error})"
            ) from None
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
        self.door.close(seconds)
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
