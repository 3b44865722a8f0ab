"""Clusters, outliers, trust, and a group against the rest."""
