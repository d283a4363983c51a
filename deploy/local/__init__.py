"""`make run`: the whole product on one machine, in the foreground.

Needs no root, no Docker and no other install.
"""
