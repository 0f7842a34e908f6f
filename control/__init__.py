"""The control plane: decides and records, and never sees a request."""
