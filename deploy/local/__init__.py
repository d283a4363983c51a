"""`make run`: the whole product on one machine, in the foreground, without root, Docker or another install."""
