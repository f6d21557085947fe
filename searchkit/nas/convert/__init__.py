"""Architectures and spaces as other projects write them down, as sections of our config."""
