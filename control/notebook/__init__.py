"""What data scientists call from a notebook: few words, pleasant answers, and samples in whatever form they are in.

Needs numpy and nothing else of the scientific kind: pandas is taken where the notebook has it, and never asked for.
"""
