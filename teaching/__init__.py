"""What is written for teachers: slides, and assignments for nbgrader."""
