"""Tests that kill a process at every call, or have the call fail."""
