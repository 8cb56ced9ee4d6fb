"""What image–audio methods share after the model: test sets, scores, tables, figures, boxes."""
from .boxes import boxes_from_maps
from .figures import (SHEET_ROWS, TILE, draw_samples, localization_parser, write_answers,
                      write_localization)
from .page.demo import serve
from .page.galleries import Model, locate_clips, pair_gallery
from .saved import MapWriter, SavedMaps, add_map_flags
from .scoring import CONTROLS, Batch, Prediction, aggregate, encode_test_audio, score_samples
from .tables import Evaluation, evaluation_parser, parse_flags, with_objects
from .test_sets import PROTOCOL, SIZE, FileTestSet, SceneTestSet, shuffled_partners, test_sets
