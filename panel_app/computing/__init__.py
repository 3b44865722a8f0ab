"""What runs behind the page: jobs, the studio that computes, and what can be ordered."""
