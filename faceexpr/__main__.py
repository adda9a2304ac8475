"""``python -m faceexpr``: the same program as the ``faceexpr`` command."""

from faceexpr.cli.main import main

if __name__ == "__main__":
    main()
