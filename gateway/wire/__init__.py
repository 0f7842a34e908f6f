"""Bytes to jobs, jobs to bytes: the only place of the request path that knows the messages of gateway.v1."""
