"""How often an address may try a token at `/login`: a few wrong ones, then a pause.

Role: addresses and wrong tokens -> seconds to wait. In memory, bounded, forgotten at a restart; the token's own length is
what keeps guessing hopeless, this keeps it quiet and cheap.
"""

import ipaddress
import threading
import time
from collections import OrderedDict

TRIES = 10  # wrong tokens of one address
PAUSE_SECONDS = 300  # from the first of them
_MOST_ADDRESSES = 10_000


class LoginLimit:
    """Counts wrong tokens by address; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address -> time of the first, how many

    def seconds_to_wait(self, address: str | None) -> int:
        """0 where the address may try; else after how many seconds it may again."""
        now = time.monotonic()
        with self._lock:
            first, count = self._tries.get(_network(address), (now, 0))
        left = first + PAUSE_SECONDS - now
        return int(left) + 1 if count >= TRIES and left > 0 else 0

    def note_wrong(self, address: str | None) -> None:
        """Count one wrong token."""
        now, name = time.monotonic(), _network(address)
        with self._lock:
            first, count = self._tries.pop(name, (now, 0))
            self._tries[name] = (now, 1) if now - first >= PAUSE_SECONDS else (first, count + 1)
            while len(self._tries) > _MOST_ADDRESSES:
                self._tries.popitem(last=False)


def _network(address: str | None) -> str:
    """The address, or of IPv6 the /64 network that one machine usually has for itself."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
