"""python -m searchkit.nas.cli: search-nas for launchers that start modules, such as torchrun."""

from searchkit.nas.cli.main import main

if __name__ == "__main__":
    main()
