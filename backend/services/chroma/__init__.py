"""The local vector service: a stand-in for a Chroma server, with the calls the backend makes."""

from backend.services.chroma.app import create_app, main

__all__ = ["create_app", "main"]
