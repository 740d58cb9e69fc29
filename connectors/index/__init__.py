"""Vector databases and full-text indexes."""
