"""The mirror: it scores what callers got with versions that answer nobody yet, and says how they differ."""
