"""Where Q/DQ pairs go, which nodes stay in float, and calibration files for other tools."""
