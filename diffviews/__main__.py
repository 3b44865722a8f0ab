"""`python -m diffviews` is the same as `diffviews`."""

from diffviews.cli import main

main()
