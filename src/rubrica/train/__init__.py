"""Training by TRL, which no other layer imports."""
