"""The command line and the scripts that ship with tuneserve."""
