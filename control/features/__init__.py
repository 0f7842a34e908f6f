"""Feature views and the log of their rows. The definition is written once; the log is what every gateway applies."""
