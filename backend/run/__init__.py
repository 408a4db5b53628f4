"""``python -m backend``: the backend and its four local services as processes on this machine."""
