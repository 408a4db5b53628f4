"""The local filesystem service: the files of projects, saved whole, found by their words."""

from backend.services.filesystem.app import create_app, main

__all__ = ["create_app", "main"]
