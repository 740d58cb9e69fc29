"""Own REST API, one file per resource."""
