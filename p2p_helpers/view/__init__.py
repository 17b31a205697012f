"""Views: figures, the explorer and the studio. Only here are matplotlib and ipywidgets imported."""
