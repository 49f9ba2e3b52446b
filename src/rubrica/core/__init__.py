"""Records, ports, configuration, the store and the run folder. No torch, no network."""
