"""Evidence of rollouts as this gateway counts it: from the journal to a log of its own, and up.

What counts is decided in `count`, kept in `log`, and read, judged and reported in `collect`.
"""
