"""How fast, against whom: ratios within one run on one machine; see bench.__main__."""
