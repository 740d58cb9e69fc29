"""Protocols of client applications."""
