"""Whom Deepwell talks to: one file per outside system, the only place where a vendor's name appears."""
