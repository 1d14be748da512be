"""Looks for tables: proposes switches, measures what they do, and keeps what is best. Begin with `search`."""
