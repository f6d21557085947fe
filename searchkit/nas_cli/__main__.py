"""python -m searchkit.nas_cli: as python -m searchkit.nas.cli."""

from searchkit.nas.cli.main import main

if __name__ == "__main__":
    main()
