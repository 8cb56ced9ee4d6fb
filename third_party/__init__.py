"""Pretrained files of others: what they are (checkpoints.toml), how to get them (fetch.py), their licences."""
