"""Attention maps: recorded while a pipeline runs, looked at afterwards."""
