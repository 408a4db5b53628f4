"""``python -m backend.services.filesystem``."""

from backend.services.filesystem.app import main

if __name__ == "__main__":
    main()
