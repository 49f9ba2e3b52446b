"""Rewards for other people's trainers, each in the form that the trainer asks for."""
