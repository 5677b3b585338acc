"""python -m mt4ssl_bench: the same as the mt4ssl-bench command."""

from mt4ssl_bench.cli.app import main

if __name__ == "__main__":
    main()
