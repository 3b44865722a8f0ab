"""Files that lie elsewhere: fetched whole, checked, and kept."""
