"""What each command of the command line does; heavy imports happen inside."""
