"""The one room for what is stored: buckets, the web, and the cache of this machine."""
