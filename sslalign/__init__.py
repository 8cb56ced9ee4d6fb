"""Aligning Sight and Sound (Senocak et al., TPAMI 2025)."""
