"""Prompts: their words and tokens, and how two of them line up."""
