"""The one place where state and audit trail are kept: SQLAlchemy Core on SQLite. Knows no gRPC, decides nothing."""
