"""python -m searchkit.nas_cli: search-nas for launchers that start modules, such as torchrun."""

from searchkit.nas_cli.main import main

if __name__ == "__main__":
    main()
