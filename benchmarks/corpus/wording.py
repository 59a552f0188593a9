"""Words and sentences that the corpus is made of."""

from __future__ import annotations

NAMES = ("Amara", "Bjorn", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Idris", "Jo", "Kaito", "Lucia")
PLACES = ("the harbour", "the archive", "the greenhouse", "the mill", "the observatory", "the ferry", "the workshop")
THINGS = ("pump", "ledger", "telescope", "loom", "lantern", "engine", "atlas", "compass", "kiln", "radio", "valve")
VERBS = ("repaired", "borrowed", "measured", "sold", "painted", "hid", "counted", "described", "moved", "traded")
FIELDS = ("id", "name", "price", "stock", "rating", "weight", "colour", "origin", "updated", "owner")
COLOURS = ("red", "green", "blue", "grey", "amber", "white", "black", "violet")
FUNCTIONS = ("merge", "split", "rank", "filter", "count", "parse", "clean", "group", "score", "shift")
REASONS = (
    "because the old one had rusted through",
    "although nobody had asked for it",
    "before the storm came in from the west",
    "so that the others could rest",
    "while the bells were still ringing",
    "after three weeks of careful preparation",
    "without telling anyone why",
)
OPINIONS = (
    "I am not sure that we should wait",
    "the figures from last month do not agree with that",
    "someone has to tell the council first",
    "it was cheaper when we made it ourselves",
    "we could ask the people who live there",
    "that is what you said about the bridge",
    "the whole plan depends on the weather",
)
PROSE_TASKS = ("Continue this story.", "Summarise this text in three sentences.", "Who did what? List it.")
CODE_TASKS = (
    "Explain this code line by line.",
    "Write tests for this code.",
    "Find a fault in this code and mend it.",
    "Continue this module with two more functions.",
)
JSON_TASKS = (
    "Repair this JSON and print it whole.",
    "Add two more records like these.",
    "Describe this JSON's schema.",
)
HTML_TASKS = ("Write the same page with one more section.", "List all links of this page.", "Turn this into Markdown.")
TABLE_TASKS = ("Continue this table with five more rows.", "Sort this table by its third column.", "Sum each column.")
DIALOGUE_TASKS = ("Continue this conversation.", "Summarise who wants what.", "Answer as the next speaker.")
