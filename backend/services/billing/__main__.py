"""``python -m backend.services.billing``."""

from backend.services.billing.app import main

if __name__ == "__main__":
    main()
