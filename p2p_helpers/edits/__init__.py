"""Edits: what happens to the attention of a target prompt, and when."""
