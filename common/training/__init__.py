"""Around a training loop: configuration and command line, run folder, processes, results."""
from . import dist
from .batches import autocast, check_batch_size, cosine_schedule, step_loader, training_steps
from .command import cli, configure, progress_bar
from .config import (Parser, RunConfig, add_flags, check_settings, checked, fields_free_on_resume,
                     flag, from_dict, given_flags, resolve)
from .dist import select_device
from .fit import fit
from .results import git_commit, markdown_table, write_results
from .run import Run, best_checkpoint, building, load_checkpoint, newest_run
