"""From a constitution to questions, and from answers to a reward. No torch."""
