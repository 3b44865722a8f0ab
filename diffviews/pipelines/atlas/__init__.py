"""The `atlas` job: which cut of a network decides, and when."""
