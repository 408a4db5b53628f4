"""``python -m backend.services.chroma``."""

from backend.services.chroma.app import main

if __name__ == "__main__":
    main()
