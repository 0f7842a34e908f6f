"""The `interlock` command: words, tables and progress around the calls of `control.services`. Decides nothing."""
