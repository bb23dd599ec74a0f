"""Commands of judging and training; each imports what it needs when it runs."""
