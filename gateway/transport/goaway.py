"""How a gRPC server lets its callers go: no new connection, and GOAWAY on those that it has, while it goes on serving.

gRPC's core sends GOAWAY only when it stops, and then cancels each call that arrives before the client has read it; or
when a connection reaches an age that was fixed when it was made. So the frame is written into the core's sockets here.
It says that no stream is too late: a client that follows it opens no more of them on that connection, and all that are
on their way are answered. It works for as long as the serving port has no TLS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Iterator
from typing import Final

GOAWAY: Final = bytes.fromhex("000008 07 00 00000000  7fffffff 00000000")
"""Length, type, flags, connection; the last stream is the last possible one, and there is no error."""
TCP_INFO_BYTES: Final = 208
WAITING: Final = struct.Struct("=24xI")
"""tcpi_unacked in Linux's struct tcp_info, which for a listening socket counts the connections not yet accepted."""
SENT: Final = struct.Struct("=200xQ")
"""tcpi_bytes_sent."""
FIRST_FRAME_BYTES: Final = 9
"""The core's own SETTINGS must have gone before any other frame; no frame is shorter."""
NEARLY_EMPTY_BYTES: Final = 16_384
"""No send buffer is smaller: with less in it, the core has nothing left of a frame that did not fit."""
HOLD_S: Final = 0.002
"""How long the core gets no reply before the frame is written, so that it has ended what it was writing."""
ACCEPT_TRIES: Final = 100


class Connections:
    """A server's sockets, found among the process's own by their port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._told: set[tuple[str, int]] = set()

    def close_door(self) -> None:
        """Stops listening, so that the kernel gives new connections to others who share the port.

        Those that wait to be accepted would be reset: it is done in a moment in which none does.
        """
        for listener in self._sockets(listening=True):
            for _ in range(ACCEPT_TRIES):
                if not _tcp_info(listener, WAITING):
                    break
                time.sleep(0.0001)
            with contextlib.suppress(OSError):  # the core holds each listener twice, and one shutdown is for both
                listener.shutdown(socket.SHUT_RDWR)

    def ask_to_leave(self) -> int:
        """Sends GOAWAY to those who have not had it, and returns how many connections there still are.

        To be called on the event loop, which so hands no reply to the core meanwhile.
        """
        open_now, held = 0, False
        for connection in self._sockets(listening=False):
            open_now += 1
            peer = connection.getpeername()[:2]
            if peer in self._told:
                continue
            if not held:
                time.sleep(HOLD_S)
                held = True
            if _between_frames(connection):
                self._told.add(peer)
                with contextlib.suppress(OSError):  # it has just left by itself
                    connection.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return open_now

    def _sockets(self, *, listening: bool) -> Iterator[socket.socket]:
        """The server's sockets, each by a descriptor of our own: one that the core closes could become another's."""
        for name in os.listdir("/proc/self/fd"):
            found = _tcp_socket(int(name))
            if found is None:
                continue
            with found, contextlib.suppress(OSError):
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
                if found.getsockname()[1] != self.port or listens is not listening:
                    continue
                if not listening:
                    found.getpeername()  # raises for a listener that was shut down
                yield found


def _tcp_socket(number: int) -> socket.socket | None:
    """A second descriptor of that one, if it is a TCP socket's."""
    try:
        own = os.dup(number)
    except OSError:
        return None
    try:
        found = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        return None
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return found
    found.close()
    return None


def _between_frames(connection: socket.socket) -> bool:
    """Whether the core has sent its first frame, and nothing of another waits for room."""
    unsent = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return _tcp_info(connection, SENT) >= FIRST_FRAME_BYTES and unsent < NEARLY_EMPTY_BYTES


def _tcp_info(found: socket.socket, field: struct.Struct) -> int:
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    return int(field.unpack_from(info)[0])
