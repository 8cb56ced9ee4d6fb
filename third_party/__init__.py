"""Pretrained files by others: their list (checkpoints.toml), the download, their licences."""
