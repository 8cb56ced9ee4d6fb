"""TURN: Towards Effective Multi-Modal Interchanges in Zero-Resource Sounding Object Localization (NeurIPS 2022)."""
