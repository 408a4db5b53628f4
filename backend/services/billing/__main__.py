"""``python -m backend.services.billing``."""

from backend.services.billing.app import main

main()
