"""Tests of spooler."""
