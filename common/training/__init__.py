"""Around a training loop: configuration → command line, run folder and checkpoints, processes."""
from . import dist
from .batches import step_loader
from .config import (Parser, RunConfig, as_dict, fields_free_on_resume, flag, from_dict,
                     given_flags, parser, resolve)
from .run import (LOG_EVERY, TIMES, Interrupted, Run, autocast, best_checkpoint, cli, configure,
                  cosine_schedule, load_checkpoint, markdown_table, newest_run, progress_bar,
                  select_device)
from .results import git_commit, write_results

__all__ = ["LOG_EVERY", "TIMES", "Interrupted", "Parser", "Run", "RunConfig", "as_dict",
           "autocast", "best_checkpoint", "cli", "configure", "cosine_schedule", "dist",
           "fields_free_on_resume", "flag", "from_dict", "git_commit", "given_flags", "load_checkpoint",
           "markdown_table", "newest_run", "parser", "progress_bar", "resolve", "select_device",
           "step_loader", "write_results"]
