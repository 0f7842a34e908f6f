"""Alembic's scripts; the store runs them when it opens, and the wheel ships them."""
