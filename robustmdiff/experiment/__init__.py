"""An experiment from data to diagnosis: what the command line does, callable from Python."""
