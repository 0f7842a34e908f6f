"""`make demo`: the whole way of a model, from a table to scores that callers can trust, on real data.

A story told by the client library that anyone else would use; nothing here has a way into the services of its own.
"""
