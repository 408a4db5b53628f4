"""The Flask application built on ``service_utils``, and the local services it talks to."""
