"""Cards and, later, everything else that leaves for the Hub."""
