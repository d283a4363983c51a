"""Signatures of images: who must have signed, whether one of those did, and the mirror's own statement. No I/O."""
