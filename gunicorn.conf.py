"""What ``gunicorn backend.app:app`` finds here by itself: see ``backend/gunicorn_conf.py``."""

from backend.gunicorn_conf import *  # noqa: F403
