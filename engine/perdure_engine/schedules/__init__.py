"""Schedules: when runs start by themselves. Pure are ``cron``, ``schedule`` and ``policy``; the rest is their shell."""
