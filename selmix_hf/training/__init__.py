"""Trainers and their parts."""
