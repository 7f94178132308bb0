"""What the book needs beyond the executed notebooks: scoreboard, costs, library pages, provenance."""
