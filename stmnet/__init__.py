"""Space-Time Memory Network for Sounding Object Localization in Videos (Li, Tian, Xu, BMVC 2021)."""
