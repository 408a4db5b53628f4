"""``python -m backend.services.git``."""

from backend.services.git.app import main

main()
