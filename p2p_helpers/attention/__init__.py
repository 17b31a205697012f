"""Attention control inside an unmodified diffusers pipeline."""
