"""``python -m backend.services.git``."""

from backend.services.git.app import main

if __name__ == "__main__":
    main()
