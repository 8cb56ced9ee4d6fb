"""`python -m common.evaluation.page RUN` writes RUN/report.html anew, while RUN is going too."""
from pathlib import Path

from common.training import Parser, cli
from common.training.run import newest_run

from .report import rebuild

parser = Parser(prog="python -m common.evaluation.page", description=__doc__)
parser.add_argument("run", help="folder of a run, or of runs, as runs/turn: the newest")
folder = Path(parser.parse_args().run)
with cli(parser.prog):
    if not (folder / "config.json").is_file():
        folder /= newest_run(folder, "config.json")
    print(f"{rebuild(folder)}: open it in a browser")
