"""Imports: schedules from the configuration of other tools. Pure: texts in, documents out."""
