"""Outcomes: what happened later, joined to the predictions in the lake, and what of it is a mistake."""
