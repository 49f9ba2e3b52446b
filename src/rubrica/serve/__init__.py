"""The reward server: completions in, rewards out, for anybody's trainer."""
