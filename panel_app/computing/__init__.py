"""What runs behind the page: jobs and their bar, and what can be ordered."""
