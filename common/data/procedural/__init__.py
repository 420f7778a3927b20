"""Drawn stand-ins for the data sets, written in their real layouts."""
