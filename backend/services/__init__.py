"""The four local services: small Flask apps, each a process of its own, for one machine and for tests.

In production the backend's ``*_SERVER_URL`` settings point at the user's own services instead.
"""
