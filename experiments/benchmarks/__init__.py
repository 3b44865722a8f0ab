"""What `diffviews benchmark` measures: a module a subject, each against its alternative in the same run."""
