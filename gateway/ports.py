"""Addresses: a port of 0 made a real one, and a port that somebody else listens on refused."""

from __future__ import annotations

import socket


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; brackets around an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def reserve(key: str, address: str) -> tuple[str, socket.socket]:
    """Takes the port for processes that share it by SO_REUSEPORT; returns HOST:PORT and what holds it.

    The socket never listens, so it gets no connection, but while it is open nobody of another user or without
    SO_REUSEPORT can take the port. Raises ValueError where somebody listens already: sharing a port with a stranger
    would give him a part of the calls.
    """
    host, port = split(address)
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if port:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # passes over closed connections, not listeners
            _bind(probe, target, key, address)
    holder = socket.socket(family, kind, protocol)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind(holder, target, key, address)
    return f"{address.rpartition(':')[0]}:{holder.getsockname()[1]}", holder


def _bind(holder: socket.socket, target: object, key: str, address: str) -> None:
    try:
        holder.bind(target)  # type: ignore[arg-type]  # what getaddrinfo gave
    except OSError as error:
        holder.close()
        raise taken(key, address, error.strerror or "refused") from error


def taken(key: str, address: str, why: str) -> ValueError:
    """Says that an address cannot be had."""
    return ValueError(f"{key} = {address}: {why}; end what listens there, or choose another port")
