"""Around a training loop: configuration and command line, run folder, processes, results."""
from . import dist
from .batches import autocast, check_batch_size, cosine_schedule, step_loader, training_steps
from .command import cli, configure, progress_bar
from .config import (Parser, RunConfig, add_flags, as_dict, check_settings,
                     fields_free_on_resume, flag, from_dict, given_flags, parser, require,
                     resolve)
from .dist import select_device
from .fit import fit
from .results import git_commit, markdown_table, write_results
from .run import Interrupted, Run, best_checkpoint, building, load_checkpoint, newest_run

__all__ = ["Interrupted", "Parser", "Run", "RunConfig", "add_flags", "as_dict", "autocast",
           "best_checkpoint", "building", "check_batch_size", "check_settings", "cli", "configure",
           "cosine_schedule", "dist", "fields_free_on_resume", "fit", "flag", "from_dict",
           "git_commit", "given_flags", "load_checkpoint", "markdown_table", "newest_run", "parser",
           "progress_bar", "require", "resolve", "select_device", "step_loader", "training_steps",
           "write_results"]
