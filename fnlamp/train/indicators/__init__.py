"""Indicators: values of single steps, measured on the device."""
