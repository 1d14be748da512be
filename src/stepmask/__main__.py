"""``python -m stepmask`` is the command."""

from stepmask.cli import app

if __name__ == "__main__":
    app(prog_name="stepmask")
