"""Judges and their prompts on labelled texts: how often they are right, and what they prefer."""
