"""Pictures, tables, images and reports of a view."""
