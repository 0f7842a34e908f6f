"""The data plane: answers requests, and decides nothing but to step back."""
