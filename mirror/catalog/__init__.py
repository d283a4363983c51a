"""What the mirror holds: publish, retag, delete, confirm, read and list images, and rebuild the index of them."""
