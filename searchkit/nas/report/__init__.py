"""The report of a search: one page of HTML and a picture, from files of records. No torch, but to read images."""
