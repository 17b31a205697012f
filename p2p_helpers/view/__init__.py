"""Views: figures, an explorer of attention maps, and the studio."""
