"""Everything of the legacy layout under one word: its import, its conversion, and its cached layers."""
