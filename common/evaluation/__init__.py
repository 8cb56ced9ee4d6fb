"""What image–audio methods share after the model: test sets, scores, tables, figures, boxes."""
from .boxes import boxes_from_maps
from .figures import SHEET_ROWS, TILE, draw_samples, write_localization
from .scoring import (CONTROLS, PROTOCOL, Batch, Prediction, aggregate, encode_test_audio,
                      score_samples)
from .tables import Evaluation, evaluation_parser, parse_flags, with_objects
from .test_sets import SIZE, FileTestSet, SceneTestSet, shuffled_partners, test_sets

__all__ = ["CONTROLS", "PROTOCOL", "SHEET_ROWS", "SIZE", "TILE", "Batch", "Evaluation",
           "FileTestSet", "Prediction", "SceneTestSet", "aggregate", "boxes_from_maps",
           "draw_samples", "encode_test_audio", "evaluation_parser", "parse_flags",
           "score_samples", "shuffled_partners", "test_sets", "with_objects",
           "write_localization"]
