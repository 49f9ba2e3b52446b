"""Who writes texts: models in this process, models behind a server, scripted ones."""
