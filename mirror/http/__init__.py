"""The guarded HTTP stack: every outgoing connection goes through it."""
