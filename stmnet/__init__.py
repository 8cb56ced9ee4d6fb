"""Space-Time Memory Network for Sounding Object Localization in Videos (BMVC 2021)."""
