"""Tests of signatures. All of them are pure."""
