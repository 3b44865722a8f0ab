"""Maps over noise levels and in three dimensions."""
