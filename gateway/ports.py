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
    refuse_listener(key, address)
    holder = _bound(key, address, socket.SO_REUSEPORT)
    return f"{address.rpartition(':')[0]}:{holder.getsockname()[1]}", holder


def refuse_listener(key: str, address: str) -> None:
    """Raises ValueError where somebody listens on the address, even one who would share it."""
    _bound(key, address, socket.SO_REUSEADDR).close()  # passes over connections that were closed, not over listeners


def _bound(key: str, address: str, option: int) -> socket.socket:
    host, port = split(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        holder = socket.socket(family, kind, protocol)
    except OSError as error:
        raise taken(key, address, error.strerror or "refused") from error
    try:
        holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(target)
    except OSError as error:
        holder.close()
        raise taken(key, address, error.strerror or "refused") from error
    return holder


def taken(key: str, address: str, why: str) -> ValueError:
    """Says that an address cannot be had."""
    return ValueError(f"{key} = {address}: {why}; end what listens there, or choose another port")
