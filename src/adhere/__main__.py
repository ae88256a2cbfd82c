"""`python -m adhere` is `adhere`."""

from adhere.cli.main import app

if __name__ == "__main__":
    app(prog_name="adhere")
