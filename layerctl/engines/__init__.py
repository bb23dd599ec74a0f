"""The engines: each one proposes layers for a picture."""
